use std::{fmt::Write as _, time::UNIX_EPOCH};

use serde_json::{Value, json};

use super::{super::config::RawAccessLog, *};

fn fields(config: &str) -> Fields {
    Fields::new(&toml::from_str::<RawAccessLog>(config).unwrap().parse())
}

fn no_header<'a>(_: &str) -> Option<&'a [u8]> {
    None
}

fn entry<'a>(header: &'a (dyn Fn(&str) -> Option<&'a [u8]> + 'a)) -> Entry<'a> {
    Entry {
        time: UNIX_EPOCH + Duration::from_millis(1_795_246_936_123),
        request_id: "r-1",
        trace_id: None,
        client: Some("2001:db8::7".parse().unwrap()),
        method: "GET",
        host: b"shop.example.com",
        path: b"/cart",
        query: None,
        protocol: "HTTP/1.1",
        tls_version: Some("TLSv1.3"),
        status: 200,
        bytes_in: 3,
        bytes_out: 512,
        duration: Duration::from_micros(12_345),
        upstream_duration: Some(Duration::from_micros(11_005)),
        listener: None,
        site: Some("shop"),
        route: Some("rest"),
        upstream: Some("web"),
        endpoint: None,
        tries: 1,
        error: None,
        header,
    }
}

fn json_text(entry: &Entry<'_>, fields: &Fields) -> String {
    let mut line = Vec::new();
    json::write(&mut line, entry, fields);
    String::from_utf8(line).unwrap()
}

fn json_of(entry: &Entry<'_>, fields: &Fields) -> Value {
    let text = json_text(entry, fields);
    assert!(!text.contains(['\n', '\r']), "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn combined_of(entry: &Entry<'_>, fields: &Fields) -> String {
    let mut line = Vec::new();
    combined::write(&mut line, entry, fields);
    String::from_utf8(line).unwrap()
}

#[test]
fn a_json_line_has_every_field() {
    let endpoint = "10.0.0.11:8080".parse().unwrap();
    let header = |name: &str| (name == "user-agent").then_some(&b"curl/8"[..]);
    let entry = Entry {
        query: Some(b"a=1&token=abc"),
        endpoint: Some(&endpoint),
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736"),
        error: Some("upstream_timeout"),
        ..entry(&header)
    };
    assert_eq!(
        json_of(&entry, &fields("")),
        json!({
            "time": "2026-11-21T07:42:16.123Z",
            "request_id": "r-1",
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
            "client": "2001:db8::7",
            "method": "GET",
            "host": "shop.example.com",
            "path": "/cart",
            "query": "a=1&token=***",
            "protocol": "HTTP/1.1",
            "tls": "TLSv1.3",
            "status": 200,
            "bytes_in": 3,
            "bytes_out": 512,
            "duration_ms": 12.345,
            "upstream_duration_ms": 11.005,
            "site": "shop",
            "route": "rest",
            "upstream": "web",
            "endpoint": "10.0.0.11:8080",
            "tries": 1,
            "error": "upstream_timeout",
            "headers": { "user-agent": "curl/8" },
        })
    );
}

#[test]
fn absent_values_are_left_out() {
    let entry = Entry {
        client: None,
        site: None,
        route: None,
        upstream: None,
        upstream_duration: None,
        tls_version: None,
        tries: 0,
        status: 0,
        ..entry(&no_header)
    };
    let value = json_of(&entry, &fields(""));
    for absent in ["client", "site", "upstream", "upstream_duration_ms", "tls", "tries", "headers"]
    {
        assert!(value.get(absent).is_none(), "{absent}");
    }
    assert_eq!(value["status"], 0);
}

#[test]
fn json_is_right_for_any_bytes() {
    let all: Vec<u8> = (0..=255).collect();
    let header = |_: &str| Some(&all[..]);
    let entry = Entry { path: &all, host: &all, query: Some(&all), ..entry(&header) };
    let value = json_of(&entry, &fields(""));
    assert_eq!(value["path"], *String::from_utf8_lossy(&all));
    assert_eq!(value["headers"]["user-agent"], *String::from_utf8_lossy(&all));
}

#[test]
fn listed_headers_are_written_and_masked_ones_never() {
    let header = |name: &str| match name {
        "authorization" => Some(&b"Bearer hunter2"[..]),
        "cookie" => Some(&b"session=hunter2"[..]),
        "x-internal" => Some(&b"hunter2"[..]),
        "x-other" => Some(&b"other"[..]),
        "referer" => Some(&b"https://a.example/?token=hunter2&x=1"[..]),
        _ => None,
    };
    let fields = fields(
        "headers = [\"Authorization\", \"Cookie\", \"X-Internal\", \"Referer\", \"absent\"]\n\
         mask_headers = [\"X-Internal\"]",
    );
    let entry = entry(&header);
    let value = json_of(&entry, &fields);
    assert_eq!(
        value["headers"],
        json!({
            "authorization": "***",
            "cookie": "***",
            "x-internal": "***",
            "referer": "https://a.example/?token=***&x=1",
        })
    );
    assert!(!combined_of(&entry, &fields).contains("hunter2"));
}

#[test]
fn long_values_are_cut_between_characters() {
    let long = "é".repeat(2_000);
    let odd = format!("a{long}");
    let header = |_: &str| Some(long.as_bytes());
    let entry = Entry { path: odd.as_bytes(), ..entry(&header) };
    let value = json_of(&entry, &fields(""));
    let agent = value["headers"]["user-agent"].as_str().unwrap();
    assert_eq!(agent, format!("{}…", "é".repeat(512)));
    assert_eq!(value["path"].as_str().unwrap(), format!("a{}…", "é".repeat(511)));
    let all_tails = vec![0x80; 3_000];
    assert_eq!(cut(&all_tails).0.len(), MAX_VALUE);
    assert_eq!(cut(&all_tails[..MAX_VALUE]), (&all_tails[..MAX_VALUE], false));
}

#[test]
fn a_secret_behind_the_cut_of_a_value_is_masked_first() {
    let query = format!("token=hunter2{}&api_key=hunter3", "x".repeat(2_000));
    let entry = Entry { query: Some(query.as_bytes()), ..entry(&no_header) };
    assert_eq!(json_of(&entry, &fields(""))["query"], "token=***&api_key=***");
}

#[test]
fn a_combined_line_looks_like_apaches() {
    let header = |name: &str| match name {
        "user-agent" => Some(&b"curl/8"[..]),
        "referer" => Some(&b"https://a.example/?token=x"[..]),
        _ => None,
    };
    let entry = Entry { query: Some(b"q=1&key=2"), ..entry(&header) };
    assert_eq!(
        combined_of(&entry, &fields("")),
        "2001:db8::7 - - [21/Nov/2026:07:42:16 +0000] \"GET /cart?q=1&key=*** HTTP/1.1\" 200 512 \
         \"https://a.example/?token=***\" \"curl/8\""
    );
    let none = Entry { client: None, status: 0, ..super::tests::entry(&no_header) };
    assert_eq!(
        combined_of(&none, &fields("")),
        "- - - [21/Nov/2026:07:42:16 +0000] \"GET /cart HTTP/1.1\" 000 512 \"-\" \"-\""
    );
}

#[test]
fn a_client_cannot_break_out_of_a_combined_field() {
    let evil = b"a\" 200 1 \"x\\\" \r\n\t\x1b[31m\0\xff\xc3\xa9";
    let header = |_: &str| Some(&evil[..]);
    let entry = Entry { path: evil, ..entry(&header) };
    let line = combined_of(&entry, &fields(""));
    assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
    let quotes = line
        .as_bytes()
        .iter()
        .enumerate()
        .filter(|&(at, &byte)| {
            let backslashes =
                line.as_bytes()[..at].iter().rev().take_while(|b| **b == b'\\').count();
            byte == b'"' && backslashes % 2 == 0
        })
        .count();
    assert_eq!(quotes, 6, "{line}");
    assert!(line.contains(r"\x0d\x0a\x09\x1b[31m\x00\xff\xc3\xa9"), "{line}");
}

#[test]
fn lines_reach_their_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let mut toml = String::new();
    write!(toml, "output = {:?}", path.to_str().unwrap()).unwrap();
    let config = toml::from_str::<RawAccessLog>(&toml).unwrap().parse();
    let dropped = IntCounter::new("dropped", "dropped").unwrap();
    let log = AccessLog::start(&config, dropped.clone()).unwrap();
    for _ in 0..100 {
        log.write(&entry(&no_header));
    }
    assert!(log.flush(Duration::from_secs(10)));
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 100);
    assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    assert_eq!(dropped.get(), 0);

    let missing = AccessLogConfig {
        output: super::super::AccessLogOutput::File(directory.path().join("no/such/file")),
        ..config.clone()
    };
    assert!(AccessLog::start(&missing, dropped.clone()).is_err());
    let off = AccessLogConfig { enabled: false, ..missing };
    AccessLog::start(&off, dropped).unwrap().write(&entry(&no_header));
}
