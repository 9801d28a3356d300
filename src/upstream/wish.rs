//! What a request says about the endpoint it would have.

use super::Tried;
use crate::types::ClientNetwork;

/// For whom an endpoint is picked, and which ones no more.
#[derive(Debug, Default)]
pub struct Wish {
    /// Those that the request has tried.
    pub tried: Tried,
    /// Where its client is, as far as it is known.
    pub network: Option<ClientNetwork>,
}
