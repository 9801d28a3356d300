use proptest::prelude::*;

use super::*;

const LIMITS: HeadLimits = HeadLimits { max_bytes: 4096, max_fields: 50, max_target_bytes: 1024 };

fn request(head: &[u8]) -> Result<Option<Whole<Body>>, Fault> {
    RequestHead::default().judge(head, &LIMITS)
}

fn response(head: &[u8]) -> Result<Option<Whole<ResponseBody>>, Fault> {
    ResponseHead::default().judge(head, false)
}

/// A head that grows by `cut` bytes at a time.
fn request_in_pieces(text: &[u8], cut: usize) -> Result<Option<Whole<Body>>, Fault> {
    let mut head = RequestHead::default();
    for end in (cut..).step_by(cut) {
        let so_far = &text[..end.min(text.len())];
        let judged = head.judge(so_far, &LIMITS)?;
        if judged.is_some() || end >= text.len() {
            return Ok(judged);
        }
    }
    unreachable!("the range has no end")
}

/// All of a body, cut in pieces: the bytes that were taken, and how it ended.
fn body_in_pieces(mut body: Body, text: &[u8], cut: usize) -> (usize, Option<Fault>, bool) {
    let mut taken = 0;
    for piece in text.chunks(cut) {
        let judged = body.judge(piece);
        taken += judged.taken;
        if judged.fault.is_some() || judged.taken < piece.len() {
            return (taken, judged.fault, body.has_ended());
        }
    }
    (taken, None, body.has_ended())
}

#[test]
fn a_head_ends_at_its_empty_line_however_it_is_cut() {
    let text = b"\r\nPOST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    for cut in 1..text.len() {
        let whole = Whole { length: text.len() - 4, body: Body::of_length(4) };
        assert_eq!(request_in_pieces(text, cut), Ok(Some(whole)), "cut {cut}");
    }
}

#[test]
fn limits_are_kept_exactly() {
    let small = HeadLimits { max_bytes: 256, max_fields: 3, max_target_bytes: 20 };
    let judge = |text: String| RequestHead::default().judge(text.as_bytes(), &small);
    let target = |n: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(n));
    assert!(judge(target(19)).is_ok_and(|whole| whole.is_some()));
    assert_eq!(judge(target(20)), Err(Fault::UriTooLong));
    assert_eq!(judge(format!("GET /{}", "a".repeat(20))), Err(Fault::UriTooLong), "unfinished");
    assert_eq!(judge(format!("GET /{}", "a".repeat(19))), Ok(None));
    let fields = |n| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(n));
    assert!(judge(fields(2)).is_ok_and(|whole| whole.is_some()));
    assert_eq!(judge(fields(3)), Err(Fault::TooManyFields));
    let start = "GET / HTTP/1.1\r\nHost: a\r\na: ";
    let sized = |n: usize| format!("{start}{}\r\n\r\n", "b".repeat(n - start.len() - 4));
    assert!(judge(sized(256)).is_ok_and(|whole| whole.is_some()));
    assert_eq!(judge(sized(257)), Err(Fault::TooLarge));
    let unfinished = |n: usize| format!("{start}{}", "b".repeat(n - start.len()));
    assert_eq!(judge(unfinished(256)), Ok(None));
    assert_eq!(judge(unfinished(257)), Err(Fault::TooLarge));
}

#[test]
fn a_body_behind_a_head_does_not_count_as_head() {
    let mut text = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n".to_vec();
    let length = text.len();
    text.resize(length + 9000, b'x');
    assert_eq!(request(&text), Ok(Some(Whole { length, body: Body::of_length(9000) })));
}

#[test]
fn chunked_bodies_end_where_they_say_however_they_are_cut() {
    let text = b"5\r\nhello\r\n00A;x=\"y\"\r\n0123456789\r\n0\r\nExpires: never\r\nX:\r\n\r\n";
    let behind = [&text[..], b"GET / HTTP/1.1\r\n"].concat();
    for cut in 1..behind.len() {
        let ended = body_in_pieces(Body::chunked(), &behind, cut);
        assert_eq!(ended, (text.len(), None, true), "cut {cut}");
        let broken = body_in_pieces(Body::chunked(), b"5\r\nhello\r\nx\r\n", cut);
        assert_eq!(broken, (10, Some(Fault::Chunk), false), "cut {cut}");
    }
}

#[test]
fn extensions_and_trailers_are_bounded() {
    let extensions = |n: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(n - 1));
    let judge = |text: String| Body::chunked().judge(text.as_bytes()).fault;
    // The line end counts too.
    assert_eq!(judge(extensions(4_096)), None);
    assert_eq!(judge(extensions(4_097)), Some(Fault::Chunk));
    assert_eq!(judge(format!("{}0\r\n\r\n", "1;x\r\na\r\n".repeat(2_049))), Some(Fault::Chunk));
    let trailers = |n: usize| format!("0\r\na:{}\r\n\r\n", "b".repeat(n));
    assert_eq!(judge(trailers(8_000)), None);
    assert_eq!(judge(trailers(8_200)), Some(Fault::Trailer));
}

#[test]
fn an_answers_body_is_as_long_as_its_status_and_request_allow() {
    for (head, is_for_head, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", false, Body::of_length(3)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", true, Body::of_length(0)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", true, Body::of_length(0)),
        ("HTTP/1.1 200\r\nTransfer-Encoding: Chunked\r\n\r\n", false, Body::chunked()),
        ("HTTP/1.0 200 OK\r\n\r\n", false, Body::until_close()),
        ("HTTP/1.1 304 \r\nContent-Length: 3\r\n\r\n", false, Body::of_length(0)),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", false, Body::of_length(0)),
    ] {
        let judged = ResponseHead::default().judge(head.as_bytes(), is_for_head);
        let whole = Whole { length: head.len(), body: ResponseBody::Body(body) };
        assert_eq!(judged, Ok(Some(whole)), "{head:?}");
    }
    let body = |head: &str| response(head.as_bytes()).map(|whole| whole.map(|whole| whole.body));
    assert_eq!(body("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"), Ok(Some(ResponseBody::Head)));
    assert_eq!(body("HTTP/1.1 101 Now\r\n\r\n"), Ok(Some(ResponseBody::Protocol)));
}

#[test]
fn faults_of_an_answer_are_found() {
    let with = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
    for (head, fault) in [
        ("200 OK\r\n".to_owned(), Fault::StartLine),
        ("HTTP/2.0 200 OK\r\n".to_owned(), Fault::Version),
        ("HTTP/1.2 200 OK\r\n".to_owned(), Fault::Version),
        ("HTTP/1.1  200 OK\r\n".to_owned(), Fault::StartLine),
        ("HTTP/1.1 20 OK\r\n".to_owned(), Fault::StartLine),
        ("HTTP/1.1 2000 OK\r\n".to_owned(), Fault::StartLine),
        ("HTTP/1.1 099 OK\r\n".to_owned(), Fault::StartLine),
        ("HTTP/1.1 +20 OK\r\n".to_owned(), Fault::StartLine),
        ("HTTP/1.1 200 OK\n".to_owned(), Fault::LineEnd),
        ("HTTP/1.1 200 O\0K\r\n".to_owned(), Fault::Control),
        (with("A: b\rC: d"), Fault::LineEnd),
        (with("A : b"), Fault::FieldName),
        (with("A: b\r\n c"), Fault::Folded),
        (with("Content-Length: 1\r\nContent-Length: 1"), Fault::ContentLength),
        (with("Content-Length: 1, 1"), Fault::ContentLength),
        (with("Content-Length: 1\r\nTransfer-Encoding: chunked"), Fault::LengthAndCoding),
        (with("Transfer-Encoding: gzip, chunked"), Fault::TransferEncoding),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(), Fault::TransferEncoding),
        ("HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n".into(), Fault::TransferEncoding),
        ("HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n".into(), Fault::ContentLength),
        ("HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\n".into(), Fault::ContentLength),
        (with(&vec!["a: b"; 257].join("\r\n")), Fault::TooManyFields),
        (with(&format!("a: {}", "b".repeat(300 << 10))), Fault::TooLarge),
    ] {
        let shown = &head[..head.len().min(80)];
        assert_eq!(response(head.as_bytes()), Err(fault), "{shown:?}");
        if fault == Fault::TooLarge {
            let unfinished = &head.as_bytes()[..290 << 10];
            assert_eq!(response(unfinished), Err(fault), "{shown:?}");
        }
    }
}

/// Pieces of heads, such that valid ones and ones that nearly are come often.
fn head_text(start_lines: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let ends = prop::sample::select(vec![
        "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n ", "",
    ]);
    let names = prop::sample::select(vec![
        "Host",
        "host",
        "HOST",
        "Content-Length",
        "content-length",
        "Transfer-Encoding",
        "X-A",
        "Accept",
        "Content_Length",
        "Host ",
        " Host",
        "",
        "X\0",
        "Ä",
        "Connection",
        "Te",
        "X-B",
    ]);
    let colons = prop::sample::select(vec![":", ": ", ": ", ": ", ":\t", " :", "", ":  "]);
    let values = prop_oneof![
        prop::sample::select(vec![
            "a",
            "a.example",
            "a:80",
            "a:b",
            "a, b",
            "u@a",
            "0",
            "1",
            "5",
            "007",
            "+1",
            "-1",
            "1,1",
            "1 1",
            "0x1",
            "18446744073709551615",
            "18446744073709551616",
            "chunked",
            "Chunked",
            "chunked, chunked",
            "gzip, chunked",
            "identity",
            "chunked ",
            "\u{b}chunked",
            "x\0y",
            "x\ry",
            "x\u{7f}",
            "é",
            "",
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,12}",
    ];
    let field = (names, colons, values, ends.clone())
        .prop_map(|(name, colon, value, end)| format!("{name}{colon}{value}{end}"));
    let host = prop::sample::select(vec!["Host: a\r\n", "Host: a\r\n", "Host: a\r\n", ""]);
    (
        prop::sample::select(start_lines),
        ends,
        host,
        prop::collection::vec(field, 0..4),
        prop::sample::select(vec!["\r\n", "\r\n", "\r\n", "\n"]),
        "[a-z\r\n]{0,8}",
    )
        .prop_map(|(line, end, host, fields, empty, behind)| {
            format!("{line}{end}{host}{}{empty}{behind}", fields.concat()).into_bytes()
        })
}

const REQUEST_LINES: &[&str] = &[
    "GET / HTTP/1.1",
    "POST /a?b=c HTTP/1.1",
    "GET / HTTP/1.0",
    "POST / HTTP/1.0",
    "PUT /ä HTTP/1.1",
    "GET http://a/x HTTP/1.1",
    "GET http://b/x HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "GET * HTTP/1.1",
    "GET /a b HTTP/1.1",
    "GET  / HTTP/1.1",
    "GET /",
    "GET / HTTP/0.9",
    "GET / HTTP/2.0",
    "get / HTTP/1.1",
    "G@T / HTTP/1.1",
    "GET / http/1.1",
    "GET / HTTP/1.1 ",
    " GET / HTTP/1.1",
    "CONNECT a:443 HTTP/1.1",
    "GET\t/ HTTP/1.1",
    "GET /\u{1} HTTP/1.1",
    "GET /\u{7f} HTTP/1.1",
    "PRI * HTTP/2.0",
    "GET a HTTP/1.1",
    "GET //a/b HTTP/1.1",
    "GET http:/a HTTP/1.1",
    "GET http://a\\b/ HTTP/1.1",
    "GET https://a?x HTTP/1.1",
    "GET ftp://a/ HTTP/1.1",
];

const STATUS_LINES: &[&str] = &[
    "HTTP/1.1 200 OK",
    "HTTP/1.0 200 OK",
    "HTTP/1.1 204 No Content",
    "HTTP/1.1 200",
    "HTTP/1.1 304 ",
    "HTTP/1.1 100 Continue",
    "HTTP/1.1 999 x",
    "HTTP/1.1 99 x",
    "HTTP/1.1 2OO x",
    "HTTP/1.1 200OK",
    "HTTP/1.1  200 OK",
    "HTTP/2 200 OK",
    "ICY 200 OK",
    "HTTP/1.1 200 \u{1}",
    "HTTP/1.1 200 é",
];

fn values<'a>(headers: &[httparse::Header<'a>], name: &str) -> Vec<&'a [u8]> {
    let named = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| header.value).collect()
}

/// The body that RFC 9112, section 6.3, gives a request, by what another parser found.
fn framing_of(headers: &[httparse::Header<'_>]) -> Body {
    match (
        values(headers, "transfer-encoding").as_slice(),
        values(headers, "content-length").as_slice(),
    ) {
        ([], []) => Body::of_length(0),
        ([], [length]) => Body::of_length(std::str::from_utf8(length).unwrap().parse().unwrap()),
        ([coding], []) => {
            assert!(coding.eq_ignore_ascii_case(b"chunked"));
            Body::chunked()
        }
        other => panic!("two ways to read it: {other:?}"),
    }
}

/// What Pingora makes of a head. It must refuse none that was taken: its own refusals are not counted.
fn read_by_pingora(text: &[u8]) -> Result<Option<usize>, String> {
    let stream = Box::new(std::io::Cursor::new(text.to_vec()));
    let mut session = pingora_core::protocols::http::v1::server::HttpSession::new(stream);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(session.read_request()).map_err(|error| error.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4_000) })]

    /// What is taken, httparse takes too, ends it at the same byte and frames its body in the same way.
    #[test]
    fn a_request_that_is_taken_is_read_alike(text in head_text(REQUEST_LINES), cut in 1_usize..64) {
        let judged = request(&text);
        prop_assert_eq!(request_in_pieces(&text, cut), judged, "cut {}", cut);
        if let Ok(Some(whole)) = judged {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut parsed = httparse::Request::new(&mut headers);
            prop_assert_eq!(parsed.parse(&text), Ok(httparse::Status::Complete(whole.length)));
            prop_assert_eq!(framing_of(parsed.headers), whole.body);
            let hosts = values(parsed.headers, "host");
            prop_assert!(hosts.len() == 1 || hosts.is_empty() && parsed.version == Some(0));
            prop_assert!(hosts.iter().all(|host| is_valid_host(host) || host.is_empty()));
            prop_assert_eq!(read_by_pingora(&text), Ok(Some(whole.length)));
        }
    }

    /// The same for answers.
    #[test]
    fn an_answer_that_is_taken_is_read_alike(text in head_text(STATUS_LINES)) {
        if let Ok(Some(whole)) = response(&text) {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut parsed = httparse::Response::new(&mut headers);
            prop_assert_eq!(parsed.parse(&text), Ok(httparse::Status::Complete(whole.length)));
            if let (ResponseBody::Body(body), Some(200 | 999)) = (whole.body, parsed.code) {
                let expected = match framing_of(parsed.headers) {
                    none if values(parsed.headers, "content-length").is_empty()
                        && none == Body::of_length(0) => Body::until_close(),
                    some => some,
                };
                prop_assert_eq!(body, expected);
            }
        }
    }

    /// A chunked body that is taken has the chunks that httparse finds, and ends where they end.
    #[test]
    fn a_chunked_body_that_is_taken_is_read_alike(
        chunks in prop::collection::vec(
            (
                prop::sample::select(vec!["1", "01", "A", "a", "10", "0x1", "", "g", " 1", "1 ", "+1"]),
                prop::sample::select(vec!["", "", "", "", ";x", ";x=\"y;z\"", " ;x", ";x\n"]),
                prop::sample::select(vec!["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r"]),
                prop::sample::select(vec![0_isize, 0, 0, 0, 1, -1]),
            ),
            0..4,
        ),
        end in prop::sample::select(vec!["0\r\n\r\n", "0\r\n\r\n", "000\r\nA: b\r\n\r\n", "0\r\n\n", "0\n\r\n", ""]),
        cut in 1_usize..32,
    ) {
        let mut text = String::new();
        for (size, extension, line_end, off) in chunks {
            let length = usize::from_str_radix(size.trim(), 16).unwrap_or(1);
            let data = "x".repeat(length.saturating_add_signed(off));
            text.extend([size, extension, line_end, &data, "\r\n"]);
        }
        text += end;
        let text = text.as_bytes();
        let ended = body_in_pieces(Body::chunked(), text, cut);
        prop_assert_eq!(ended, body_in_pieces(Body::chunked(), text, text.len().max(1)));
        if let (taken, None, true) = ended {
            let mut at = 0;
            loop {
                let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(&text[at..taken])
                else {
                    return Err(TestCaseError::fail(format!("another parser finds no chunk at {at}")));
                };
                at += line;
                if size == 0 {
                    break;
                }
                at += size as usize;
                prop_assert_eq!(text.get(at..at + 2), Some(&b"\r\n"[..]));
                at += 2;
            }
            prop_assert!(text[at..taken].ends_with(b"\r\n") && text[..taken].ends_with(b"\r\n\r\n"));
        }
    }

    /// Nothing that comes from outside panics, and a head that is taken never reaches behind the bytes.
    #[test]
    fn any_bytes_are_judged(text in prop::collection::vec(any::<u8>(), 0..200)) {
        for whole in request(&text).into_iter().flatten() {
            prop_assert!(whole.length <= text.len());
        }
        let _ = response(&text);
        prop_assert!(Body::chunked().judge(&text).taken <= text.len());
    }
}
