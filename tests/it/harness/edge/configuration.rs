//! What the harness adds to a test's configuration text.
//!
//! Addresses first: `{0}`, `{1}` are the origins', `{dir}` is the edge's directory. Then, where the text does not have
//! it: a state directory, an admin listener and an access log of the edge's own, no orders of certificates; a listener `http`, and `https` where a
//! site asks for one; and, where there is no site and no included file, one for `localhost` and `127.0.0.1` on both. What is added stands
//! after the text, so that its lines keep their numbers. A text that is not TOML stays as it is.

use std::{fmt::Write, path::Path};

use toml::{Table, Value};

/// The whole configuration for a test's text.
///
/// # Panics
/// When the text has several upstreams and no site, so that the harness can't know which to use.
pub fn complete(text: &str, addresses: &[String], directory: &Path) -> String {
    let mut text = text.replace("{dir}", &directory.display().to_string());
    for (i, address) in addresses.iter().enumerate() {
        text = text.replace(&format!("{{{i}}}"), address);
    }
    let Ok(table) = text.parse::<Table>() else { return text };
    let mut added = String::from("\n");
    let directory = directory.display();
    for (section, key, value) in [
        ("server", "state_dir", format!("\"{directory}/state\"")),
        ("admin", "address", "\"127.0.0.1:0\"".to_owned()),
        ("access_log", "output", format!("\"{directory}/access.log\"")),
    ] {
        match table.get(section) {
            None => {
                let _ = write!(added, "[{section}]\n{key} = {value}\n");
            }
            Some(Value::Table(has)) if !has.contains_key(key) => {
                let header = format!("[{section}]");
                assert!(text.contains(&header), "write {section} as {header}");
                text = text.replacen(&header, &format!("{header}\n{key} = {value}"), 1);
            }
            Some(_) => {}
        }
    }
    if !table.contains_key("acme") {
        // Nothing of a test leaves this machine.
        added.push_str("[acme]\nenabled = false\n");
    }
    let sites = table.get("sites").and_then(Value::as_table);
    let has_sites_elsewhere = table.contains_key("include") || table.contains_key("allow_empty");
    if !table.contains_key("listeners") {
        added.push_str("[listeners.http]\naddress = \"127.0.0.1:0\"\n");
        let is_asked = sites.is_some_and(|sites| sites.values().any(wants_tls));
        if is_asked || sites.is_none() && !has_sites_elsewhere {
            added.push_str("[listeners.https]\naddress = \"127.0.0.1:0\"\ntls = true\n");
        }
    }
    if sites.is_none() && !has_sites_elsewhere {
        added.push_str("[sites.test]\nhosts = [\"localhost\", \"127.0.0.1\"]\n");
        // A listener that sends TCP on has no sites.
        let names: Vec<&str> = match table.get("listeners").and_then(Value::as_table) {
            Some(listeners) => {
                let http = listeners.iter().filter(|(_, listener)| listener.get("tcp").is_none());
                http.map(|(name, _)| name.as_str()).collect()
            }
            None => vec!["http", "https"],
        };
        let _ = writeln!(added, "listeners = {names:?}");
        let upstreams: Vec<&String> = table
            .get("upstreams")
            .and_then(Value::as_table)
            .into_iter()
            .flat_map(Table::keys)
            .collect();
        let _ = match *upstreams.as_slice() {
            [] => writeln!(added, "endpoints = {addresses:?}"),
            [one] => writeln!(added, "upstream = \"{one}\""),
            _ => panic!("several upstreams: write the site too"),
        };
    }
    text + &added
}

/// Whether a site is to be reached over TLS: it names the listener, or says something of certificates.
fn wants_tls(site: &Value) -> bool {
    let names_it = site
        .get("listeners")
        .and_then(Value::as_array)
        .is_some_and(|names| names.iter().any(|name| name.as_str() == Some("https")));
    let is_silent = site.get("listeners").is_none();
    names_it || is_silent && (site.get("certificate").is_some() || site.get("tls").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(text: &str) -> Table {
        let addresses = ["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()];
        complete(text, &addresses, Path::new("/d")).parse().unwrap()
    }

    #[test]
    fn an_upstream_alone_gets_a_site_on_both_listeners() {
        let table = completed("[upstreams.api]\nendpoints = [\"{0}\", \"{1}\"]\n");
        assert_eq!(table["upstreams"]["api"]["endpoints"][1].as_str(), Some("127.0.0.1:2"));
        assert_eq!(table["sites"]["test"]["upstream"].as_str(), Some("api"));
        assert_eq!(table["sites"]["test"]["listeners"].as_array().unwrap().len(), 2);
        assert_eq!(table["listeners"]["https"]["tls"].as_bool(), Some(true));
        assert_eq!(table["server"]["state_dir"].as_str(), Some("/d/state"));
        let nothing = completed("");
        assert_eq!(nothing["sites"]["test"]["endpoints"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn what_the_text_says_stays_and_its_lines_keep_their_place() {
        let text = "[server]\ndrain = \"1s\"\n[sites.a]\nhosts = [\"a\"]\nendpoints = [\"{0}\"]\n";
        let table = completed(text);
        assert_eq!(table["server"]["drain"].as_str(), Some("1s"));
        assert_eq!(table["server"]["state_dir"].as_str(), Some("/d/state"));
        assert!(table["listeners"].get("https").is_none());
        assert!(table["sites"].get("test").is_none());
        let own = completed("[listeners.edge]\naddress = \"127.0.0.1:0\"\n");
        assert!(own["listeners"].get("http").is_none());
        assert_eq!(own["sites"]["test"]["listeners"][0].as_str(), Some("edge"));
    }

    #[test]
    fn a_site_with_a_certificate_gets_the_tls_listener() {
        let site = "[sites.a]\nhosts = [\"a\"]\nendpoints = [\"{0}\"]\ncertificate = { internal = true }\n";
        assert!(completed(site)["listeners"].get("https").is_some());
    }

    #[test]
    fn included_files_bring_the_sites() {
        let table = completed("include = [\"sites/*.toml\"]\n");
        assert!(table.get("sites").is_none() && table["listeners"].get("https").is_none());
    }

    #[test]
    fn what_is_no_toml_stays_as_it_is() {
        assert_eq!(complete("[sites", &[], Path::new("/d")), "[sites");
    }
}
