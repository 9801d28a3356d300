//! Look-ups of the edge's own host names, for those who order certificates.

use std::net::IpAddr;

use futures_util::future::BoxFuture;

use super::resolver::{Family, LookUpError, SharedResolver};
use crate::tls::acme::{Caa, LookUp, LookUpFailure};

impl LookUp for SharedResolver {
    fn addresses<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, LookUpFailure>> {
        Box::pin(async move {
            let name = absolute(name);
            let (v4, v6) = futures_util::future::join(
                Self::addresses(self, &name, Family::V4),
                Self::addresses(self, &name, Family::V6),
            )
            .await;
            match (v4, v6) {
                (Err(v4), Err(v6)) => Err(if v4.is_answer() { why(&v6) } else { why(&v4) }),
                (v4, v6) => {
                    let found = |of: Result<(Vec<IpAddr>, _), _>| {
                        of.map_or_else(|_| Vec::new(), |(found, _)| found)
                    };
                    Ok([found(v4), found(v6)].concat())
                }
            }
        })
    }

    fn caa<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Caa>, LookUpFailure>> {
        Box::pin(async move {
            Self::caa(self, &absolute(name))
                .await
                .map(|(found, _)| found)
                .map_err(|error| why(&error))
        })
    }
}

/// Not to be looked for in the search list.
fn absolute(name: &str) -> String {
    format!("{name}.")
}

fn why(error: &LookUpError) -> LookUpFailure {
    if error.is_answer() {
        LookUpFailure::Nothing
    } else {
        LookUpFailure::Failed(error.to_string())
    }
}
