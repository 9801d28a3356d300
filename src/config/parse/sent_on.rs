//! Connections that are sent on as they are: their upstreams, and their names against those of sites.

use std::collections::BTreeMap;

use super::upstreams::Upstreams;
use crate::{
    config::{ListenerConfig, SiteConfig, sent_on::RawSendTo},
    types::{HostPattern, KeyPath, Name, Problems},
};

/// The upstream of a listener's `tcp` or `passthrough`, which stands at `path`.
pub(super) fn upstream(
    to: &RawSendTo<'_>,
    path: &KeyPath,
    upstreams: &mut Upstreams<'_>,
    problems: &mut Problems,
) -> Option<Name> {
    let (name, at) = match (to.upstream, to.endpoints) {
        (Some(name), None) => {
            let at = path.key("upstream");
            upstreams.check(name, &at, problems);
            (name.clone(), at)
        }
        (None, Some(endpoints)) => {
            let name = upstreams.add_implicit(&to.implicit, endpoints, path, problems)?;
            (name, path.key("endpoints"))
        }
        (Some(_), Some(_)) => {
            problems
                .error(&path.key("endpoints"), "both `upstream` and `endpoints` are set")
                .at_key()
                .help("keep one of them");
            return None;
        }
        (None, None) => {
            problems
                .error(path, "nothing says where connections go")
                .at_key()
                .help("add `upstream = \"…\"` or `endpoints = [\"10.0.0.5:5432\"]`");
            return None;
        }
    };
    if let Some(tls) = upstreams.tls_of(&name) {
        problems
            .error(
                &at,
                format!("the upstream \"{name}\" speaks TLS to its endpoints, and connections are sent on as they are"),
            )
            .help("use an upstream without `tls`; clients that speak TLS then speak it with the endpoint")
            .related(tls, "TLS is set here");
        return None;
    }
    Some(name)
}

/// A server name on a listener is either a site's or sent on.
pub(super) fn check_hosts(
    sites: &[SiteConfig],
    listeners_of: impl Fn(&SiteConfig) -> Vec<Name>,
    listeners: &[ListenerConfig],
    problems: &mut Problems,
) {
    let mut owners: BTreeMap<(&Name, &HostPattern), KeyPath> = BTreeMap::new();
    for listener in listeners {
        for sent_on in listener.protocol.passthrough() {
            let path = listener.path.key("passthrough").key(&sent_on.name).key("hosts");
            for (index, host) in sent_on.hosts.iter().enumerate() {
                owners.entry((&listener.name, host)).or_insert_with(|| path.index(index));
            }
        }
    }
    if owners.is_empty() {
        return;
    }
    for site in sites {
        for listener in listeners_of(site) {
            for (index, host) in site.hosts.iter().enumerate() {
                if let Some(first) = owners.get(&(&listener, host)) {
                    problems
                        .error(
                            first,
                            format!("the host {host} belongs to the site \"{}\" on the listener \"{listener}\"", site.name),
                        )
                        .help("a name is either a site's or sent on; take it out of one of them")
                        .related(site.path.key("hosts").index(index), "the site's");
                }
            }
        }
    }
}
