//! Where the edge itself sends requests to: an absolute URL of http or https.
//!
//! Its path and query may be a secret (Slack's are), so that only scheme, host and port are ever shown.

use std::{fmt, str::FromStr, sync::Arc};

use http::{Uri, uri::Scheme};

/// An absolute URL of http or https, without credentials in it. Cheap to clone. `Display` and `Debug` show
/// `https://host:port` only.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HttpUrl(Arc<Uri>);

/// Why a text is no such URL. It never has the text in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpUrlError {
    /// It can't be read.
    #[error("it is not a URL such as \"https://host/path\"")]
    Malformed,
    /// Another scheme, or none.
    #[error("it begins neither with \"https://\" nor with \"http://\"")]
    Scheme,
    /// A name and a password before the host.
    #[error("it has credentials before the host, and would be shown with them")]
    Credentials,
}

impl HttpUrl {
    /// The whole of it, for the one place that sends the request.
    pub fn expose(&self) -> &Uri {
        &self.0
    }

    /// Whether requests to it go over TLS.
    pub fn is_https(&self) -> bool {
        self.0.scheme() == Some(&Scheme::HTTPS)
    }
}

impl FromStr for HttpUrl {
    type Err = HttpUrlError;

    fn from_str(text: &str) -> Result<Self, HttpUrlError> {
        let uri: Uri = text.parse().map_err(|_| HttpUrlError::Malformed)?;
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS || *scheme == Scheme::HTTP => {}
            _ => return Err(HttpUrlError::Scheme),
        }
        let authority = uri.authority().ok_or(HttpUrlError::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(HttpUrlError::Credentials);
        }
        if authority.host().is_empty() {
            return Err(HttpUrlError::Malformed);
        }
        Ok(Self(Arc::new(uri)))
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.scheme_str().unwrap_or_default();
        let authority = self.0.authority().map_or("", |authority| authority.as_str());
        write!(f, "{scheme}://{authority}")
    }
}

impl fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_origin_of_a_url_is_shown() {
        let url: HttpUrl = "https://hooks.test:8443/services/T0/secret?key=x".parse().unwrap();
        assert_eq!(url.to_string(), "https://hooks.test:8443");
        assert_eq!(format!("{url:?}"), "HttpUrl(https://hooks.test:8443)");
        assert_eq!(url.expose().path(), "/services/T0/secret");
        assert!(url.is_https() && !"http://[::1]:80".parse::<HttpUrl>().unwrap().is_https());
    }

    #[test]
    fn what_is_no_absolute_url_of_http_is_refused() {
        for (text, error) in [
            ("", HttpUrlError::Malformed),
            ("https://", HttpUrlError::Malformed),
            ("https://:80/", HttpUrlError::Malformed),
            ("https://a b/", HttpUrlError::Malformed),
            ("/path", HttpUrlError::Scheme),
            ("hooks.test", HttpUrlError::Scheme),
            ("ftp://hooks.test/", HttpUrlError::Scheme),
            ("https://user:word@hooks.test/", HttpUrlError::Credentials),
        ] {
            assert_eq!(text.parse::<HttpUrl>(), Err(error), "{text}");
        }
    }
}
