//! What went through the front: accounts, orders, refusals.

use std::collections::HashMap;

use serde_json::Value;

/// One order that pebble took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Its names, as they were asked for.
    pub names: Vec<String>,
    /// The certificate that it replaces, as the client called it: RFC 9773, section 5.
    pub replaces: Option<String>,
    /// Its profile.
    pub profile: Option<String>,
}

/// Everything that is counted. A request that pebble refused, say for its nonce, is not.
#[derive(Default)]
pub(super) struct Record {
    pub(super) accounts_created: usize,
    pub(super) accounts_found: usize,
    pub(super) keys_changed: usize,
    pub(super) finalized: usize,
    pub(super) nonces_refused: usize,
    pub(super) renewal_queries: usize,
    pub(super) orders: Vec<Order>,
    /// Places in `orders` by the paths of an order and of its finalization.
    by_path: HashMap<String, usize>,
}

impl Order {
    /// Reads the payload of a new order.
    pub(super) fn of(payload: &Value) -> Self {
        let text = |key: &str| payload[key].as_str().map(ToOwned::to_owned);
        let identifiers = payload["identifiers"].as_array().into_iter().flatten();
        let names = identifiers.filter_map(|identifier| identifier["value"].as_str());
        Self {
            names: names.map(ToOwned::to_owned).collect(),
            replaces: text("replaces"),
            profile: text("profile"),
        }
    }

    /// Writes what pebble does not know of into its order object.
    pub(super) fn complete(&self, object: &mut Value) {
        if let Some(replaces) = &self.replaces {
            object["replaces"] = replaces.as_str().into();
        }
        if let Some(profile) = &self.profile {
            object["profile"] = profile.as_str().into();
        }
    }
}

impl Record {
    /// Keeps a new order with the paths under which it will be asked for.
    pub(super) fn keep(&mut self, order: Order, paths: impl IntoIterator<Item = String>) {
        let place = self.orders.len();
        self.by_path.extend(paths.into_iter().map(|path| (path, place)));
        self.orders.push(order);
    }

    /// The order that a path belongs to.
    pub(super) fn order_at(&self, path: &str) -> Option<&Order> {
        self.by_path.get(path).and_then(|place| self.orders.get(*place))
    }
}
