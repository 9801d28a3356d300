//! Routes: from listener, host and path to a site and one of its routes.

mod config;
pub mod normalise;
mod raw;
mod table;
mod template;

pub use config::{
    Conditions, MAX_RESPOND_FILE_BYTES, PathMatch, RespondBody, RespondConfig, Rewrite,
    RouteConfig, TargetConfig, ValueMatch, default_max_body_bytes,
};
pub use raw::{RawRedirect, RawRedirectTable, RawRespond, RawRewrite, RawRoute, RawValueMatch};
pub use table::{Found, HostTable, RequestView, RouteRule, RouteTable, capture};
pub use template::Template;
