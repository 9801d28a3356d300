//! What a request says about the endpoint it would have.

use super::{Tried, sticky::StickyValue};
use crate::types::ClientNetwork;

/// For whom an endpoint is picked, and which ones no more.
#[derive(Debug, Default)]
pub struct Wish {
    /// Those that the request has tried.
    pub tried: Tried,
    /// The hash of its key, where it has one and its upstream asks for it.
    pub hash: Option<u64>,
    /// What its sticky cookie says, where its upstream gives them.
    pub sticky: Option<StickyValue>,
    /// Where its client is, as far as it is known.
    pub network: Option<ClientNetwork>,
}
