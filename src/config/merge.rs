//! Fragments to one tree. Sections that hold named things merge by name; everything else stands in one fragment only.

use std::collections::btree_map;

use super::{
    diagnostics::Finding,
    tree::{Entry, Node, Table, Value},
};
use crate::types::KeyPath;

/// Sections whose keys are names.
const NAMED: [&str; 5] = ["listeners", "sites", "policies", "upstreams", "webhooks"];

/// Merges the trees in their order. What is defined twice is reported, and its first definition kept.
pub(super) fn merge(trees: Vec<Node>, findings: &mut Vec<Finding>) -> Node {
    let mut merged = Table::new();
    for tree in trees {
        let Value::Table(table) = tree.value else { continue };
        for (key, entry) in table {
            let path = KeyPath::of(&[&key]);
            let is_named = NAMED.contains(&key.as_str());
            match merged.entry(key) {
                btree_map::Entry::Vacant(vacant) => {
                    vacant.insert(entry);
                }
                btree_map::Entry::Occupied(mut first) => {
                    let first = first.get_mut();
                    match (&mut first.node.value, entry.node.value) {
                        (Value::Table(into), Value::Table(from)) if is_named => {
                            merge_named(into, from, &path, findings);
                        }
                        _ => findings.push(twice(&path, first, &entry.key)),
                    }
                }
            }
        }
    }
    Node::table(merged)
}

fn merge_named(into: &mut Table, from: Table, path: &KeyPath, findings: &mut Vec<Finding>) {
    for (name, entry) in from {
        let path = path.key(&name);
        match into.entry(name) {
            btree_map::Entry::Vacant(vacant) => {
                vacant.insert(entry);
            }
            btree_map::Entry::Occupied(first) => {
                findings.push(twice(&path, first.get(), &entry.key));
            }
        }
    }
}

fn twice(path: &KeyPath, first: &Entry, second: &super::source::Place) -> Finding {
    Finding::error(path, format!("`{path}` is defined twice"))
        .at(Some(*second))
        .related(Some(first.key), "first defined here")
}

#[cfg(test)]
mod tests {
    use toml::de::DeTable;

    use super::*;

    fn merged(texts: &[&str]) -> (Node, Vec<Finding>) {
        let mut findings = Vec::new();
        let trees = texts
            .iter()
            .enumerate()
            .map(|(i, text)| Node::from_document(DeTable::parse(text).unwrap().get_ref(), i, text));
        let tree = merge(trees.collect(), &mut findings);
        (tree, findings)
    }

    #[test]
    fn named_things_of_all_fragments_are_there() {
        let (tree, findings) = merged(&["[sites.a]\nx = 1", "[sites.b]\nx = 2\n[server]\ny = 1"]);
        assert!(findings.is_empty());
        assert_eq!(tree.locate(&KeyPath::of(&["sites", "b", "x"]), false).unwrap().source, 1);
        assert!(tree.at(&KeyPath::of(&["sites", "a"])).is_some() && tree.get("server").is_some());
    }

    #[test]
    fn the_order_of_fragments_does_not_change_the_hash() {
        let (a, b) = ("[sites.a]\nx = 1", "[sites.b]\nx = 2");
        assert_eq!(merged(&[a, b]).0.hash(), merged(&[b, a]).0.hash());
        assert_ne!(merged(&[a, b]).0.hash(), merged(&[a]).0.hash());
    }

    #[test]
    fn a_second_definition_is_an_error_with_both_places() {
        for (a, b, path) in [
            ("[sites.a]\nx = 1", "[sites.a]\ny = 1", "sites.a"),
            ("[server]\nx = 1", "[server]\ny = 1", "server"),
            ("allow_empty = true", "allow_empty = true", "allow_empty"),
        ] {
            let (_, findings) = merged(&[a, b]);
            let [finding] = findings.as_slice() else { panic!("{findings:?}") };
            assert_eq!(finding.path.to_string(), path);
            assert_eq!(finding.place.unwrap().source, 1);
            assert_eq!(finding.related.as_ref().unwrap().0.source, 0);
        }
    }
}
