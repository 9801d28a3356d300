//! `sticky`: the cookie that keeps a client at one endpoint; as written, and parsed.

use schemars::JsonSchema;
use serde::Serialize;

use super::raw::RawUpstream;
use crate::types::{KeyPath, Problems, RawStickyCookie, StickyCookie, deserialize_by_form};

/// Sticky sessions, as written.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawSticky {
    /// `false`: none; an inherited one is dropped.
    Switch(bool),
    /// A table.
    Table(RawStickyCookie),
}

deserialize_by_form!(
    RawSticky,
    "false, or a table such as { cookie = \"node\" }",
    { bool => Switch, table => Table }
);

impl RawUpstream {
    /// `sticky`, with the defaults filled in.
    pub(super) fn parse_sticky(
        &self,
        path: &KeyPath,
        problems: &mut Problems,
    ) -> Option<StickyCookie> {
        let path = path.key("sticky");
        match self.sticky.as_ref()? {
            RawSticky::Switch(false) => None,
            RawSticky::Switch(true) => {
                problems
                    .error(&path, "the cookie needs a name")
                    .help("write `sticky = { cookie = \"node\" }`");
                None
            }
            RawSticky::Table(table) => Some(table.parse(&path, problems)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_only_turns_them_off() {
        let parse = |sticky: &str| {
            let raw: RawUpstream = toml::from_str(&format!("sticky = {sticky}")).unwrap();
            let mut problems = Problems::new();
            let sticky = raw.parse_sticky(&KeyPath::of(&["upstreams", "web"]), &mut problems);
            (sticky, problems.iter().next().map(|problem| problem.path.to_string()))
        };
        assert_eq!(parse("false"), (None, None));
        assert_eq!(parse("true"), (None, Some("upstreams.web.sticky".to_owned())));
        assert_eq!(parse("{ cookie = \"n\" }").0.unwrap().cookie, "n");
    }
}
