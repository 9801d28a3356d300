//! Tree to [`Raw`], with all errors: what is wrong is reported, taken out, and the rest decoded again.

use std::borrow::Cow;

use serde::Deserialize;

use super::{
    decode::{DecodeError, Kind, words},
    raw::Raw,
    tree::Node,
};
use crate::{
    policy::PLANNED_KINDS,
    types::{KeyPath, Problems, SECRET_IN_PLACE, Segment, did_you_mean},
};

/// Errors after which no more are looked for: each costs one more pass.
const MAX_ERRORS: usize = 256;

/// Words of other proxies, with ours.
const OTHER_WORDS: [(&str, &str); 64] = [
    ("addr", "address"),
    ("addresses", "endpoints"),
    ("algorithm", "balance"),
    ("backend", "upstream"),
    ("backend_tls", "tls"),
    ("backends", "endpoints"),
    ("bind", "address"),
    ("body_limit", "max_body"),
    ("body_size", "max_body"),
    ("cert", "certificate"),
    ("cert_file", "chain"),
    ("certfile", "chain"),
    ("certificates", "certificate"),
    ("check", "health_check"),
    ("client_max_body_size", "max_body"),
    ("cluster", "upstream"),
    ("clusters", "upstreams"),
    ("connect_timeout", "connect"),
    ("crt", "chain"),
    ("domain", "hosts"),
    ("domains", "hosts"),
    ("entrypoints", "listeners"),
    ("filters", "policies"),
    ("frontends", "listeners"),
    ("fullchain", "chain"),
    ("health", "health_check"),
    ("healthcheck", "health_check"),
    ("host", "hosts"),
    ("http2_max_concurrent_streams", "max_streams"),
    ("includes", "include"),
    ("insecure", "insecure_skip_verify"),
    ("keep_alive_timeout", "keep_alive"),
    ("key_file", "key"),
    ("keepalive", "keep_alive"),
    ("keepalive_timeout", "keep_alive"),
    ("lb", "balance"),
    ("lb_policy", "balance"),
    ("listen", "address"),
    ("load_balancing", "balance"),
    ("location", "path"),
    ("locations", "routes"),
    ("max_body_size", "max_body"),
    ("middlewares", "policies"),
    ("nodes", "endpoints"),
    ("path_prefix", "path"),
    ("plugins", "policies"),
    ("pool", "upstream"),
    ("prefix", "path"),
    ("private_key", "key"),
    ("proxy_pass", "upstream"),
    ("regex", "path_regex"),
    ("retry", "retries"),
    ("return", "respond"),
    ("server_name", "hosts"),
    ("server_names", "hosts"),
    ("servers", "endpoints"),
    ("service", "upstream"),
    ("services", "upstreams"),
    ("ssl", "tls"),
    ("ssl_certificate", "certificate"),
    ("targets", "endpoints"),
    ("timeout", "timeouts"),
    ("uri", "path"),
    ("virtual_hosts", "sites"),
];

/// Takes out what this version does not have yet. It is refused by its name, not as an unknown key: a policy that does
/// nothing would let everybody in.
pub(super) fn refuse_planned(tree: &mut Cow<'_, Node>, problems: &mut Problems) -> Vec<KeyPath> {
    let mut planned = Vec::new();
    let root = KeyPath::root();
    for (name, policy) in tree.get("policies").and_then(Node::as_table).into_iter().flatten() {
        for kind in PLANNED_KINDS {
            if policy.node.get(kind).is_some() {
                let path = root.key("policies").key(name).key(kind);
                planned.push((path, format!("`{kind}` policy")));
            }
        }
    }
    for (path, what) in &planned {
        problems
            .error(path, format!("this version has no {what} yet"))
            .at_key()
            .help("take it out; nothing that would protect less than it says is served");
        tree.to_mut().remove(path);
    }
    planned.into_iter().map(|(path, _)| path).collect()
}

/// Decodes what can be decoded. `removed` gains the paths of what could not; only then is the tree copied.
pub(super) fn decode_all(
    mut tree: Cow<'_, Node>,
    problems: &mut Problems,
    removed: &mut Vec<KeyPath>,
) -> Raw {
    for _ in 0..MAX_ERRORS {
        match Raw::deserialize(&*tree) {
            Ok(raw) => return raw,
            Err(error) => {
                // What the table lacks is what was taken out of it.
                let is_consequence = removed.iter().any(|path| path.parent() == Some(&error.path));
                if !is_consequence {
                    report(&error, &tree, problems);
                }
                let was_there = tree.to_mut().remove(&error.path);
                removed.push(error.path);
                if !was_there {
                    return Raw::default();
                }
            }
        }
    }
    problems.error(&KeyPath::root(), format!("there are more than {MAX_ERRORS} errors"));
    Raw::default()
}

fn report(error: &DecodeError, tree: &Node, problems: &mut Problems) {
    let (message, help) = match &error.kind {
        Kind::UnknownKey { key, expected } => {
            let message = format!("unknown key \"{key}\"");
            match suggest(key, expected) {
                Some(near) => (format!("{message}; did you mean \"{near}\"?"), None),
                None => (message, Some(format!("the keys here are {}", expected.join(", ")))),
            }
        }
        Kind::UnknownWord { word, expected } => {
            let message = format!("unknown word \"{word}\"");
            match did_you_mean(word, expected.iter().copied()) {
                Some(near) => (format!("{message}; did you mean \"{near}\"?"), None),
                None => (message, Some(format!("write {}", words(expected)))),
            }
        }
        Kind::Mismatch { expected, found, is_value } => {
            let help = if *is_value { None } else { mismatch_help(error, tree, expected) };
            (format!("expected {}, found {found}", in_words(expected)), help)
        }
        Kind::MissingKey(key) => (format!("the key \"{key}\" is missing"), None),
        Kind::Other(message) if message == SECRET_IN_PLACE => {
            (message.clone(), Some("write { env = \"NAME\" } or { file = \"/path\" }".to_owned()))
        }
        Kind::Other(message) => (message.clone(), None),
    };
    let problem = problems.error(&error.path, message);
    if error.at_key {
        problem.at_key();
    }
    if let Some(help) = help {
        problem.help(help);
    }
}

fn suggest(key: &str, expected: &[&'static str]) -> Option<&'static str> {
    let plain = key.replace('-', "_").to_ascii_lowercase();
    let known = |word: &str| expected.iter().copied().find(|candidate| *candidate == word);
    known(&plain)
        .or_else(|| {
            let (_, ours) = OTHER_WORDS.iter().find(|(other, _)| *other == plain)?;
            known(ours)
        })
        .or_else(|| did_you_mean(key, expected.iter().copied()))
}

/// serde's words for what it expects, in those of the reference.
fn in_words(expected: &str) -> &str {
    match expected {
        "a string" | "path string" => "text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a table",
        "a nonzero u32" => "a whole number from 1",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" => "a whole number from 0",
        "i32" | "i64" => "a whole number",
        other if other.starts_with("struct ") => "a table",
        other => other,
    }
}

fn mismatch_help(error: &DecodeError, tree: &Node, expected: &str) -> Option<String> {
    use super::tree::Value;
    let found = &tree.at(&error.path)?.value;
    let is_section = matches!(error.path.segments().as_slice(), [Segment::Key(_)]);
    match (found, in_words(expected)) {
        (Value::List(_), "a table") if is_section => {
            Some(format!("each has a name here: `[{}.<name>]`", error.path))
        }
        (Value::Text(text), "a list") => Some(format!("write a list: [\"{text}\"]")),
        (Value::Integer(number), "text") => Some(format!("write it in quotes: \"{number}\"")),
        (Value::Integer(number), wanted) if wanted.contains("duration") => {
            Some(format!("write it with a unit: \"{number}s\" or \"{number}ms\""))
        }
        (Value::Integer(number), wanted) if wanted.contains("size") => {
            Some(format!("write it with a unit: \"{number}KiB\" or \"{number}MiB\""))
        }
        (Value::Text(text), "true or false") if text == "true" || text == "false" => {
            Some(format!("write {text} without quotes"))
        }
        (Value::Text(text), wanted)
            if wanted.starts_with("a whole number") && text.parse::<i64>().is_ok() =>
        {
            Some(format!("write {text} without quotes"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use toml::de::DeTable;

    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let tree = Node::from_document(DeTable::parse(text).unwrap().get_ref(), 0, text);
        let mut problems = Problems::new();
        decode_all(Cow::Owned(tree), &mut problems, &mut Vec::new());
        problems.iter().map(|p| format!("{}: {}", p.path, p.message)).collect()
    }

    #[test]
    fn all_errors_are_found_each_once() {
        let found = problems(
            "[server]\nthread = 3\ndrain = 5\n[sites.\"a b\"]\n[sites.x]\nhosts = [\"ok.de\", \"a b\", 3]\nendpoints = [\"nope\"]\n[upstreams.y]\nendpoints = [{ adress = \"1.2.3.4:5\" }, { address = \"1.2.3.4:5\", weigth = 1 }]\n",
        );
        assert_eq!(
            found,
            [
                "server.drain: expected a duration such as \"5s\", found the number 5",
                "server.thread: unknown key \"thread\"; did you mean \"threads\"?",
                "sites.\"a b\": \"a b\" is not a name; names have letters, digits, \"-\", \"_\" and \".\", at most 64 of them",
                "sites.x.endpoints[0]: \"nope\" is not an address: the port is missing; write it as \"10.0.0.11:8080\" or \"app.internal:8080\"",
                "sites.x.hosts[1]: \"a b\" is not a host name: labels have letters, digits and \"-\" (write other scripts as punycode, \"xn--…\")",
                "sites.x.hosts[2]: expected a host name such as \"shop.example.com\", found the number 3",
                "upstreams.y.endpoints[0].adress: unknown key \"adress\"; did you mean \"address\"?",
                "upstreams.y.endpoints[1].weigth: unknown key \"weigth\"; did you mean \"weight\"?",
            ]
        );
    }

    #[test]
    fn words_of_other_proxies_are_known() {
        for (text, near) in [
            ("[sites.a]\nserver_name = \"x\"", "hosts"),
            ("[sites.a.routes.b]\nproxy_pass = \"x\"", "upstream"),
            ("[sites.a.routes.b]\nlocation = \"x\"", "path"),
            ("[listeners.a]\nlisten = \"x\"", "address"),
            ("[upstreams.a]\nservers = []", "endpoints"),
            ("[upstreams.a]\nhealth-check = false", "health_check"),
        ] {
            let found = problems(text);
            assert!(found.len() == 1 && found[0].ends_with(&format!("\"{near}\"?")), "{found:?}");
        }
    }
}
