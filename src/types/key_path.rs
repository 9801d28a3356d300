//! Where a key stands in the configuration.
//!
//! Paths are made for every key that is looked at and shown only where one is wrong, so that a longer path shares all of
//! the shorter one: a step costs the same at any depth.

use std::{cmp::Ordering, fmt, sync::Arc};

/// One step into the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    /// A key of a table.
    Key(Box<str>),
    /// An element of an array, from 0.
    Index(usize),
}

/// The path of a key: `sites.shop.routes.rest.upstream`, `upstreams.web.endpoints[1]`.
#[derive(Clone, Default)]
pub struct KeyPath(Option<Arc<Step>>);

/// The last step of a path, with the path to it.
struct Step {
    to: KeyPath,
    segment: Segment,
}

impl KeyPath {
    /// The document itself.
    pub const fn root() -> Self {
        Self(None)
    }

    /// The path of several keys, from the root.
    pub fn of(keys: &[&str]) -> Self {
        keys.iter().fold(Self::root(), |path, key| path.key(key))
    }

    /// This path and one more key.
    pub fn key(&self, key: &str) -> Self {
        self.step(Segment::Key(key.into()))
    }

    /// This path and an array element.
    pub fn index(&self, index: usize) -> Self {
        self.step(Segment::Index(index))
    }

    /// This path and one more step.
    pub fn step(&self, segment: Segment) -> Self {
        Self(Some(Arc::new(Step { to: self.clone(), segment })))
    }

    /// The steps from the root.
    pub fn segments(&self) -> Vec<&Segment> {
        let mut segments: Vec<&Segment> = self.upwards().collect();
        segments.reverse();
        segments
    }

    fn upwards(&self) -> impl Iterator<Item = &Segment> {
        std::iter::successors(self.0.as_deref(), |step| step.to.0.as_deref())
            .map(|step| &step.segment)
    }

    /// The last step.
    pub fn last(&self) -> Option<&Segment> {
        self.0.as_ref().map(|step| &step.segment)
    }

    /// Puts a step before all others (errors bubble up from the inside).
    pub fn prepend(&mut self, segment: Segment) {
        let first = Self::root().step(segment);
        *self = self.segments().into_iter().fold(first, |path, segment| path.step(segment.clone()));
    }

    /// The path without its last step, or `None` at the root.
    pub fn parent(&self) -> Option<&Self> {
        self.0.as_ref().map(|step| &step.to)
    }
}

impl PartialEq for KeyPath {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || (a.segment == b.segment && a.to == b.to),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Eq for KeyPath {}

impl PartialOrd for KeyPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for KeyPath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.segments().cmp(&other.segments())
    }
}

impl fmt::Debug for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPath({self})")
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.segments().into_iter().enumerate() {
            match segment {
                Segment::Key(key) => {
                    let dot = if i == 0 { "" } else { "." };
                    let bare = !key.is_empty()
                        && key
                            .bytes()
                            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
                    if bare { write!(f, "{dot}{key}")? } else { write!(f, "{dot}{key:?}")? }
                }
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_like_the_file() {
        let path = KeyPath::of(&["upstreams", "web"]).key("endpoints").index(1);
        assert_eq!(path.to_string(), "upstreams.web.endpoints[1]");
        assert_eq!(KeyPath::of(&["sites", "a.b"]).to_string(), "sites.\"a.b\"");
    }

    #[test]
    fn paths_are_equal_by_their_steps() {
        let path = KeyPath::of(&["a", "b"]).index(1);
        assert_eq!(path, KeyPath::of(&["a"]).key("b").index(1));
        for other in [KeyPath::of(&["a", "b"]), KeyPath::of(&["a", "b"]).index(2), path.key("x")] {
            assert_ne!(path, other);
        }
        assert_eq!(path.parent(), Some(&KeyPath::of(&["a", "b"])));
        let mut inner = KeyPath::of(&["b"]).index(1);
        inner.prepend(Segment::Key("a".into()));
        assert_eq!(path, inner);
    }
}
