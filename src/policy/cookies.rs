//! The cookies of a request: one that is read, and one of the edge's own that is taken out.

use http::{HeaderMap, HeaderValue, header::COOKIE};
use pingora_http::RequestHeader;

/// The value of the first cookie of this name.
pub(super) fn find<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(cookie::Cookie::split_parse)
        .filter_map(Result::ok)
        .find(|cookie| cookie.name() == name)
        .and_then(|cookie| cookie.value_raw())
}

/// Takes every cookie of this name out of the request, and returns the value of the first. All other bytes stay as they are; a line
/// without another cookie goes.
pub(super) fn take(request: &mut RequestHeader, name: &str) -> Option<String> {
    let lines = request.headers.get_all(COOKIE);
    let is_ours = |part: &&[u8]| {
        let part = part.trim_ascii_start();
        part.strip_prefix(name.as_bytes())
            .and_then(|rest| rest.trim_ascii_start().split_first())
            .is_some_and(|(first, _)| *first == b'=')
    };
    let mut value = None;
    let mut kept: Vec<HeaderValue> = Vec::new();
    let mut is_changed = false;
    for line in lines {
        let parts = || line.as_bytes().split(|byte| *byte == b';');
        let Some(ours) = parts().find(is_ours) else {
            kept.push(line.clone());
            continue;
        };
        is_changed = true;
        let text = ours.splitn(2, |byte| *byte == b'=').nth(1).unwrap_or_default().trim_ascii();
        value = value.or_else(|| std::str::from_utf8(text).ok().map(ToOwned::to_owned));
        let rest = parts().filter(|part| !is_ours(part)).collect::<Vec<_>>().join(&b';');
        let rest = rest.trim_ascii_start();
        if !rest.is_empty() {
            kept.extend(HeaderValue::from_bytes(rest));
        }
    }
    if is_changed {
        request.remove_header(&COOKIE);
        for line in kept {
            // The value is valid by its type.
            drop(request.append_header(COOKIE, line));
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_cookie_is_taken_and_the_others_stay_as_they_came() {
        for (lines, value, left) in [
            (&["n=v"][..], Some("v"), &[][..]),
            (&["a=1; n=v; b=2"], Some("v"), &["a=1; b=2"]),
            (&["n=v; a=1"], Some("v"), &["a=1"]),
            (&["a=1;n=v"], Some("v"), &["a=1"]),
            (&["a=1", "n=v", "b=2"], Some("v"), &["a=1", "b=2"]),
            (&["n=v; a=1; n=w", "n=x"], Some("v"), &["a=1"]),
            (&["n = v"], Some("v"), &[]),
            (&["n="], Some(""), &[]),
            (&["nn=v; N=w; n; m=n=v"], None, &["nn=v; N=w; n; m=n=v"]),
            (&["a=\"x;  y\";; c"], None, &["a=\"x;  y\";; c"]),
            (&[], None, &[]),
        ] {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            for line in lines {
                request.append_header(COOKIE, *line).unwrap();
            }
            assert_eq!(take(&mut request, "n").as_deref(), value, "{lines:?}");
            let rest: Vec<&[u8]> =
                request.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
            let left: Vec<&[u8]> = left.iter().map(|line| line.as_bytes()).collect();
            assert_eq!(rest, left, "{lines:?}");
        }
    }
}
