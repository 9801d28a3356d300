//! The cookie that keeps a client where it is: at an endpoint, in a variant. Its name and attributes, as written and parsed.
//!
//! What stands in it, and that it is signed, is a matter of who gives it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HumanDuration, KeyPath, Problems, defaults};

/// A sticky cookie, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawStickyCookie {
    /// The cookie's name. Endpoints don't see it.
    pub cookie: String,
    /// How long a client keeps it, from when it is given. Default: until the browser is closed.
    #[serde(default)]
    pub max_age: Option<HumanDuration>,
    /// The paths that it is sent to.
    #[serde(default)]
    #[schemars(extend("default" = "/"))]
    pub path: Option<String>,
    /// The domain whose hosts it is sent to. Default: only the host that gave it.
    #[serde(default)]
    pub domain: Option<String>,
    /// Whether it goes with requests that other sites cause.
    #[serde(default)]
    #[schemars(extend("default" = "lax"))]
    pub same_site: Option<SameSite>,
    /// Over TLS only.
    #[serde(default)]
    #[schemars(extend("default" = "as the client speaks: over TLS, true"))]
    pub secure: Option<bool>,
    /// Not for scripts.
    #[serde(default)]
    #[schemars(extend("default" = defaults::STICKY_HTTP_ONLY))]
    pub http_only: Option<bool>,
}

/// Whether a cookie goes with requests that other sites cause (RFC 6265bis, section 5.6.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SameSite {
    /// With none.
    Strict,
    /// With navigation to a page.
    #[default]
    Lax,
    /// With all of them. Needs TLS.
    None,
}

/// A sticky cookie, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickyCookie {
    /// The cookie's name.
    pub cookie: String,
    /// Over TLS only; `None` is as the client speaks.
    pub secure: Option<bool>,
    /// What follows the value, without `Secure`.
    attributes: String,
}

impl StickyCookie {
    /// The value of a `Set-Cookie` field (RFC 6265, section 4.1).
    pub fn set_cookie(&self, value: &str, is_tls: bool) -> String {
        let secure = if self.secure.unwrap_or(is_tls) { "; Secure" } else { "" };
        format!("{}={value}{}{secure}", self.cookie, self.attributes)
    }
}

impl RawStickyCookie {
    /// Fills in the defaults, and refuses what browsers would drop or read in another way.
    pub fn parse(&self, path: &KeyPath, problems: &mut Problems) -> StickyCookie {
        // A token of HTTP is what a cookie's name must be, too.
        if http::Method::from_bytes(self.cookie.as_bytes()).is_err() {
            problems
                .error(&path.key("cookie"), format!("\"{}\" is not a cookie's name", self.cookie))
                .help("use letters, digits, \"-\" and \"_\"");
        }
        let is_plain =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';');
        let url_path = self.path.as_deref().unwrap_or("/");
        if !url_path.starts_with('/') || !is_plain(url_path) {
            problems
                .error(&path.key("path"), format!("\"{url_path}\" is not a cookie's path"))
                .help("a path starts with \"/\", without \";\" and spaces");
        }
        if let Some(domain) = &self.domain
            && (domain.is_empty() || !is_plain(domain) || domain.contains(['/', ':', ',']))
        {
            problems.error(&path.key("domain"), format!("\"{domain}\" is not a domain"));
        }
        if self.max_age.is_some_and(|age| age.0.as_secs() == 0) {
            problems
                .error(&path.key("max_age"), "a cookie of less than a second is gone at once")
                .help("leave the key out for a cookie that lasts until the browser is closed");
        }
        let same_site = self.same_site.unwrap_or_default();
        if same_site == SameSite::None && self.secure == Some(false) {
            problems
                .error(&path.key("same_site"), "browsers drop such a cookie unless it is `secure`")
                .help("leave `secure` out, or write \"lax\"");
        }
        let is_host_only = self.cookie.starts_with("__Host-");
        if is_host_only && (self.domain.is_some() || url_path != "/") {
            problems
                .error(
                    &path.key("cookie"),
                    "browsers drop a cookie called `__Host-` that has a domain or another path than \"/\"",
                )
                .help("leave `domain` and `path` out, or choose another name");
        }
        if (is_host_only || self.cookie.starts_with("__Secure-")) && self.secure == Some(false) {
            problems
                .error(
                    &path.key("secure"),
                    "browsers drop a cookie of this name unless it is secure",
                )
                .help("leave `secure` out, or choose another name");
        }
        let domain = self.domain.as_ref().map(|domain| format!("; Domain={domain}"));
        let max_age = self.max_age.map(|age| format!("; Max-Age={}", age.0.as_secs()));
        let same_site = match same_site {
            SameSite::Strict => "Strict",
            SameSite::Lax => "Lax",
            SameSite::None => "None",
        };
        let is_http_only = self.http_only.unwrap_or(defaults::STICKY_HTTP_ONLY);
        let attributes = format!(
            "; Path={url_path}{}{}; SameSite={same_site}{}",
            domain.unwrap_or_default(),
            max_age.unwrap_or_default(),
            if is_http_only { "; HttpOnly" } else { "" },
        );
        StickyCookie { cookie: self.cookie.clone(), secure: self.secure, attributes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(cookie: &str) -> Result<StickyCookie, String> {
        #[derive(Deserialize)]
        struct Written {
            sticky: RawStickyCookie,
        }
        let written: Written = toml::from_str(&format!("sticky = {cookie}")).unwrap();
        let mut problems = Problems::new();
        let sticky = written.sticky.parse(&KeyPath::of(&["sticky"]), &mut problems);
        match problems.iter().next() {
            None => Ok(sticky),
            Some(problem) => Err(format!("{}: {}", problem.path, problem.message)),
        }
    }

    #[test]
    fn attributes_are_those_that_are_written_and_safe_ones() {
        let set = |sticky: &str, is_tls| parse(sticky).unwrap().set_cookie("v", is_tls);
        for (sticky, is_tls, expected) in [
            ("{ cookie = \"n\" }", false, "n=v; Path=/; SameSite=Lax; HttpOnly"),
            ("{ cookie = \"n\" }", true, "n=v; Path=/; SameSite=Lax; HttpOnly; Secure"),
            ("{ cookie = \"n\", secure = false }", true, "n=v; Path=/; SameSite=Lax; HttpOnly"),
            (
                "{ cookie = \"n\", secure = true, same_site = \"strict\", http_only = false }",
                false,
                "n=v; Path=/; SameSite=Strict; Secure",
            ),
            (
                "{ cookie = \"n\", max_age = \"1h\", path = \"/a\", domain = \"a.test\", same_site = \"none\" }",
                true,
                "n=v; Path=/a; Domain=a.test; Max-Age=3600; SameSite=None; HttpOnly; Secure",
            ),
        ] {
            assert_eq!(set(sticky, is_tls), expected);
        }
    }

    #[test]
    fn what_would_break_the_header_or_be_dropped_by_browsers_is_refused() {
        for (sticky, key) in [
            ("{ cookie = \"\" }", ".cookie"),
            ("{ cookie = \"a=b\" }", ".cookie"),
            ("{ cookie = \"a;b\" }", ".cookie"),
            ("{ cookie = \"a\", path = \"x\" }", ".path"),
            ("{ cookie = \"a\", path = \"/; Domain=b\" }", ".path"),
            ("{ cookie = \"a\", path = \"/\\r\\n\" }", ".path"),
            ("{ cookie = \"a\", domain = \"\" }", ".domain"),
            ("{ cookie = \"a\", domain = \"b;c\" }", ".domain"),
            ("{ cookie = \"a\", domain = \"https://b\" }", ".domain"),
            ("{ cookie = \"a\", max_age = \"500ms\" }", ".max_age"),
            ("{ cookie = \"a\", same_site = \"none\", secure = false }", ".same_site"),
            ("{ cookie = \"__Host-a\", path = \"/b\" }", ".cookie"),
            ("{ cookie = \"__Secure-a\", secure = false }", ".secure"),
        ] {
            let error = parse(sticky).unwrap_err();
            assert!(error.starts_with(&format!("sticky{key}: ")), "{sticky}: {error}");
        }
    }
}
