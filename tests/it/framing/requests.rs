//! Heads of requests in HTTP/1.1.

use super::{Fate, Row, row, run};

/// A request with these fields and no body.
fn with(fields: &str) -> String {
    format!("GET /{{n}} HTTP/1.1\r\n{fields}\r\n\r\n")
}

/// A request to `a` with one more field, which is refused with another behind it.
fn field(line: &str) -> String {
    format!("GET /{{n}} HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n{SECOND}")
}

/// A request with this request line.
fn line(line: &str) -> String {
    format!("{line}\r\nHost: a\r\n\r\n")
}

/// Must never get anywhere.
const SECOND: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

fn refused(name: &'static str, sent: String, reason: &'static str) -> Row {
    row(name, sent, Fate::Refused(400, reason))
}

fn forwarded(name: &'static str, sent: String) -> Row {
    row(name, sent, Fate::Forwarded(""))
}

#[test]
fn request_lines() {
    run(&[
        forwarded("plain", line("GET /{n} HTTP/1.1")),
        forwarded("query", line("GET /{n}?a=b&c HTTP/1.1")),
        forwarded("another method", line("PURGE /{n} HTTP/1.1")),
        forwarded("lower case is another method", line("get /{n} HTTP/1.1")),
        forwarded("all of a token", line("!#$%&'*+-.^_`|~ /{n} HTTP/1.1")),
        forwarded("1.0", line("GET /{n} HTTP/1.0")),
        forwarded("1.0 without host", "GET /{n} HTTP/1.0\r\n\r\n".into()),
        forwarded("1.0 with an empty host", "GET /{n} HTTP/1.0\r\nHost:\r\n\r\n".into()),
        forwarded("an empty line before it", format!("\r\n{}", line("GET /{n} HTTP/1.1"))),
        forwarded("absolute", line("GET http://a/{n} HTTP/1.1")),
        forwarded("absolute, in capitals", line("GET HTTP://a/{n} HTTP/1.1")),
        forwarded("absolute, https", line("GET https://a/{n} HTTP/1.1")),
        forwarded(
            "absolute with a port",
            "GET http://a:80/{n} HTTP/1.1\r\nHost: a:80\r\n\r\n".into(),
        ),
        forwarded("bytes over ASCII", line("GET /{n}\u{c3}\u{a4} HTTP/1.1")),
        forwarded("two slashes are a path", line("GET //a/{n} HTTP/1.1")),
        refused("0.9", "GET /{n}\r\n\r\n".into(), "start_line"),
        refused("0.9 with its name", line("GET /{n} HTTP/0.9"), "version"),
        refused("1.2", line("GET /{n} HTTP/1.2"), "version"),
        refused("2.0", line("GET /{n} HTTP/2.0"), "version"),
        refused("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), "version"),
        refused("11", line("GET /{n} HTTP/11"), "version"),
        refused("1.10", line("GET /{n} HTTP/1.10"), "version"),
        refused("lower case", line("GET /{n} http/1.1"), "start_line"),
        refused("a space at the end", line("GET /{n} HTTP/1.1 "), "start_line"),
        refused("a space before it", line(" GET /{n} HTTP/1.1"), "start_line"),
        refused("two spaces", line("GET  /{n} HTTP/1.1"), "start_line"),
        refused("a space in the target", line("GET /{n} /smuggled HTTP/1.1"), "start_line"),
        refused("a tab", line("GET\t/{n} HTTP/1.1"), "start_line"),
        refused("a tab in the target", line("GET /{n}\tb HTTP/1.1"), "target"),
        refused("no method", line("/{n} HTTP/1.1"), "start_line"),
        refused("no token", line("G(T /{n} HTTP/1.1"), "start_line"),
        refused("a byte over ASCII as method", line("G\u{e4}T /{n} HTTP/1.1"), "start_line"),
        refused("no target", line("GET HTTP/1.1"), "start_line"),
        refused("a relative target", line("GET {n} HTTP/1.1"), "target"),
        refused("a star with GET", line("GET * HTTP/1.1"), "target"),
        refused("a fragment", line("GET /{n}#f HTTP/1.1"), "target"),
        refused("NUL", line("GET /{n}\0 HTTP/1.1"), "control"),
        refused("DEL", line("GET /{n}\u{7f} HTTP/1.1"), "control"),
        refused("ESC", line("GET /{n}\u{1b}[2J HTTP/1.1"), "control"),
        refused("CR", line("GET /{n}\rX HTTP/1.1"), "line_end"),
        refused("another scheme", line("GET ftp://a/{n} HTTP/1.1"), "target"),
        refused("one slash", line("GET http:/a/{n} HTTP/1.1"), "target"),
        refused("no slash", line("GET http:a/{n} HTTP/1.1"), "target"),
        refused("a backslash", line("GET http://a\\b/{n} HTTP/1.1"), "target"),
        refused("no host in it", line("GET http:///{n} HTTP/1.1"), "target"),
        refused("user info in it", line("GET http://u:p@a/{n} HTTP/1.1"), "target"),
        refused("a port that is none", line("GET http://a:x/{n} HTTP/1.1"), "target"),
        refused("another host than Host", line("GET http://b/{n} HTTP/1.1"), "host"),
        refused("another port than Host", line("GET http://a:80/{n} HTTP/1.1"), "host"),
        row("CONNECT", line("CONNECT a:443 HTTP/1.1"), Fate::Refused(405, "connect")),
        row("CONNECT to a path", line("CONNECT /{n} HTTP/1.1"), Fate::Refused(405, "connect")),
        row("OPTIONS *", line("OPTIONS * HTTP/1.1"), Fate::Answered(400, "bad_path")),
        row(
            "a long target",
            line(&format!("GET /{{n}}{} HTTP/1.1", "a".repeat(1_100))),
            Fate::Refused(414, "uri_too_long"),
        ),
        row(
            "a long target without end",
            format!("GET /{{n}}{}", "a".repeat(1_100)),
            Fate::Refused(414, "uri_too_long"),
        ),
        refused("TLS", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\n".into(), "line_end"),
    ]);
}

#[test]
fn lines_and_fields() {
    run(&[
        forwarded("no space behind the colon", field("X:y").replace(SECOND, "")),
        forwarded("a tab behind the colon", field("X:\ty\t ").replace(SECOND, "")),
        forwarded("an empty value", field("X:").replace(SECOND, "")),
        forwarded("bytes over ASCII in a value", field("X: \u{e4}\u{ff}").replace(SECOND, "")),
        forwarded("a tab in a value", field("X: a\tb").replace(SECOND, "")),
        forwarded("all of a token as name", field("!#$%&'*+-.^_`|~: y").replace(SECOND, "")),
        forwarded("the same name twice", field("X: a\r\nX: b").replace(SECOND, "")),
        refused("bare LF", "GET /{n} HTTP/1.1\nHost: a\n\n".into(), "line_end"),
        refused("bare LF in the middle", field("X: y\nZ: w"), "line_end"),
        refused("bare LF at the end", "GET /{n} HTTP/1.1\r\nHost: a\r\n\n".into(), "line_end"),
        refused("a hidden field behind LF", field("X: y\nTransfer-Encoding: chunked"), "line_end"),
        refused("bare CR", field("X: y\rZ: w"), "line_end"),
        refused("CR CR LF", field("X: y\r"), "line_end"),
        refused("NUL in a value", field("X: a\0b"), "control"),
        refused("NUL in a name", field("X\0: b"), "control"),
        refused("a control character in a value", field("X: a\u{1}b"), "control"),
        refused("DEL in a value", field("X: a\u{7f}b"), "control"),
        refused("a vertical tab", field("X:\u{b}y"), "control"),
        refused("a space before the colon", field("X : y"), "field_name"),
        refused("a tab before the colon", field("X\t: y"), "field_name"),
        refused("a space in a name", field("X Y: y"), "field_name"),
        refused("no name", field(": y"), "field_name"),
        refused("no colon", field("X"), "field_name"),
        refused("a name over ASCII", field("X\u{e4}: y"), "field_name"),
        refused("a quoted name", field("\"X\": y"), "field_name"),
        refused("a name in brackets", field("X[]: y"), "field_name"),
        refused("folded with a space", field("X: y\r\n z"), "folded"),
        refused("folded with a tab", field("X: y\r\n\tz"), "folded"),
        refused(
            "white space first of all",
            "GET /{n} HTTP/1.1\r\n Host: a\r\n\r\n".into(),
            "folded",
        ),
        refused("a line of white space", field(" "), "folded"),
        row(
            "many fields",
            field(&vec!["X: y"; 20].join("\r\n")),
            Fate::Refused(431, "too_many_fields"),
        ),
        forwarded(
            "as many fields as may be",
            field(&vec!["X: y"; 19].join("\r\n")).replace(SECOND, ""),
        ),
        row(
            "a large field",
            field(&format!("X: {}", "y".repeat(5_000))),
            Fate::Refused(431, "too_large"),
        ),
        row(
            "a large field without end",
            format!("GET /{{n}} HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(5_000)),
            Fate::Refused(431, "too_large"),
        ),
        forwarded(
            "a large head that may be",
            field(&format!("X: {}", "y".repeat(4_000))).replace(SECOND, ""),
        ),
    ]);
}

#[test]
fn hosts() {
    run(&[
        forwarded("a name", with("Host: a.example")),
        forwarded("in capitals", with("HOST: A.EXAMPLE")),
        forwarded("with a port", with("Host: a.example:8080")),
        forwarded("with an empty port", with("Host: a.example:")),
        forwarded("with a dot at its end", with("Host: a.example.")),
        forwarded("IPv4", with("Host: 192.0.2.1:80")),
        forwarded("IPv6", with("Host: [2001:db8::1]:80")),
        forwarded("white space around it", with("Host: \t a \t ")),
        refused("none", with("X: y"), "host"),
        refused("none in an absolute target", "GET http://a/{n} HTTP/1.1\r\n\r\n".into(), "host"),
        refused("empty", with("Host:"), "host"),
        refused(
            "empty, with an absolute target",
            "GET http://a/{n} HTTP/1.1\r\nHost:\r\n\r\n".into(),
            "host",
        ),
        refused("two", with("Host: a\r\nHost: b"), "host"),
        refused("the same twice", with("Host: a\r\nhost: a"), "host"),
        refused("two in 1.0", "GET /{n} HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n".into(), "host"),
        refused("a list", with("Host: a, b"), "host"),
        refused("a list without space", with("Host: a,b"), "host"),
        refused("user info", with("Host: user@a"), "host"),
        refused("user info with a password", with("Host: user:pass@a"), "host"),
        refused("a path", with("Host: a/b"), "host"),
        refused("a query", with("Host: a?b"), "host"),
        refused("a fragment", with("Host: a#b"), "host"),
        refused("a backslash", with("Host: a\\b"), "host"),
        refused("a space", with("Host: a b"), "host"),
        refused("a tab", with("Host: a\tb"), "host"),
        refused("a scheme", with("Host: http://a"), "host"),
        refused("a port over 65535", with("Host: a:65536"), "host"),
        refused("a port of letters", with("Host: a:http"), "host"),
        refused("a negative port", with("Host: a:-1"), "host"),
        refused("two ports", with("Host: a:80:81"), "host"),
        refused("only a port", with("Host: :80"), "host"),
        refused("percent-encoded", with("Host: a%2eb"), "host"),
        refused("over ASCII", with("Host: \u{e4}.example"), "host"),
        refused("two dots", with("Host: a..b"), "host"),
        refused("only a dot", with("Host: ."), "host"),
        refused("half a bracket", with("Host: [::1"), "host"),
        refused("a zone", with("Host: [fe80::1%25eth0]"), "host"),
        refused("IPv6 without brackets", with("Host: 2001:db8::1"), "host"),
        refused("a comment", with("Host: a (b)"), "host"),
        refused("NUL", with("Host: a\0.b"), "control"),
        refused("in quotes", with("Host: \"a\""), "host"),
    ]);
}
