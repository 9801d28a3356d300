//! Routes: from listener, host and path to a site and one of its routes.

mod config;
mod fallback;
pub mod normalise;
mod raw;
mod table;
mod template;

pub use config::{
    MAX_RESPOND_FILE_BYTES, PathMatch, RespondBody, RespondConfig, Rewrite, RouteConfig,
    TargetConfig, default_max_body_bytes,
};
pub use fallback::{FallbackConfig, RawFallback};
pub use raw::{RawRedirect, RawRedirectTable, RawRespond, RawRewrite, RawRoute};
pub use table::{Found, HostTable, RouteRule, RouteTable, capture};
pub use template::Template;
