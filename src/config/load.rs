//! Loading: files → fragments → one tree → [`Raw`](super::Raw) → [`Config`], with a report of everything that is wrong.
//!
//! Pure but for reading the files and the environment; opens no sockets, keeps nothing.

use std::{
    borrow::Cow,
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Config,
    decode_all::{decode_all, refuse_planned},
    diagnostics::{Finding, Report},
    environment::{Environment, Redactor, process_environment},
    fragments::Fragments,
    merge::merge,
    parse::{Context, parse},
    source::{Bundle, Files, Source},
    tree::{ConfigHash, Node, Value},
};
use crate::types::{KeyPath, Problems};

/// A configuration that was taken, with what is needed to report later problems with it.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Arc<Config>,
    /// Warnings.
    pub report: Report,
    /// Its identity. What files it refers to (certificates, bodies) is not part of it.
    pub hash: ConfigHash,
    /// The files it was read from, the main one first.
    pub files: Vec<PathBuf>,
    main: PathBuf,
    pub(super) bundle: Bundle,
}

/// The merged tree with its sources, and what is wrong so far.
struct Document {
    tree: Node,
    sources: Arc<[Source]>,
    bundle: Bundle,
    redactor: Redactor,
    main: PathBuf,
    findings: Vec<Finding>,
    /// Values that can't be decoded because their variables are not set.
    removed: Vec<KeyPath>,
    /// Sources that are no TOML.
    broken: HashSet<usize>,
    /// Names or whole files are missing: what refers to them is not wrong.
    is_incomplete: bool,
}

/// Loads the file at `path` and what it includes.
///
/// # Errors
/// A report with at least one error, and all that could be found.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    load_from(path, Files::Disk, Environment(&process_environment))
}

pub(super) fn load_from(
    path: &Path,
    files: Files<'_>,
    environment: Environment<'_>,
) -> Result<Loaded, Report> {
    let mut document = Document::read(path, files, environment);
    let mut problems = Problems::new();
    let config = document.parse(&mut problems);
    let mut findings = std::mem::take(&mut document.findings);
    findings.extend(problems.into_iter().map(|problem| document.finding(problem)).filter(
        // What a broken file holds is not all that was written there.
        |finding| !finding.place.is_some_and(|place| document.broken.contains(&place.source)),
    ));
    let report = Report::new(path, document.sources.clone(), findings);
    match config {
        Some(config) if !report.has_errors() => Ok(Loaded {
            config: Arc::new(config),
            report,
            hash: document.tree.hash(),
            files: document.sources.iter().map(|source| source.path.clone()).collect(),
            main: document.main,
            bundle: document.bundle,
        }),
        _ => Err(report),
    }
}

impl Loaded {
    /// Problems that a later stage found, with their places.
    ///
    /// The texts are read once more for it: their tree takes many times their size and is seldom asked for.
    pub fn report_of(&self, problems: Problems) -> Report {
        if problems.is_empty() {
            return Report::new(&self.main, Arc::default(), Vec::new());
        }
        let files = Files::Bundle(&self.bundle);
        let document = Document::read(&self.main, files, Environment(&process_environment));
        let findings = problems.into_iter().map(|problem| document.finding(problem)).collect();
        Report::new(&self.main, document.sources, findings)
    }
}

impl Document {
    fn read(path: &Path, files: Files<'_>, environment: Environment<'_>) -> Self {
        let mut fragments = Fragments::gather(path, files, environment);
        let bundle = fragments.to_bundle();
        let mut is_incomplete = fragments.is_incomplete() || fragments.sources.is_empty();
        let mut findings = std::mem::take(&mut fragments.findings);
        let mut tree = merge(fragments.trees, &mut findings);
        let may_be_empty =
            tree.get("allow_empty").is_some_and(|node| node.value == Value::Bool(true));
        if !may_be_empty {
            is_incomplete |= !fragments.empty.is_empty();
            findings.extend(fragments.empty);
        }
        let mut removed = Vec::new();
        let redactor = environment.expand_all(&mut tree, |path, error| {
            findings.push(Finding::error(path, error.to_string()).help_from(error.help()));
            removed.push(path.clone());
        });
        for finding in findings.iter_mut().filter(|finding| finding.place.is_none()) {
            finding.place = tree.locate(&finding.path, false);
        }
        Self {
            tree,
            sources: fragments.sources.into(),
            bundle,
            redactor,
            main: path.to_owned(),
            findings,
            removed,
            broken: fragments.broken,
            is_incomplete,
        }
    }

    /// The configuration that the tree is; `None` where something is wrong with it.
    fn parse(&mut self, problems: &mut Problems) -> Option<Config> {
        if self.sources.is_empty() {
            return None;
        }
        let mut decodable = Cow::Borrowed(&self.tree);
        for path in &self.removed {
            decodable.to_mut().remove(path);
        }
        self.removed.extend(refuse_planned(&mut decodable, problems));
        let raw = decode_all(decodable, problems, &mut self.removed);
        let context = Context { tree: &self.tree, removed: &self.removed };
        if self.is_incomplete { None } else { parse(&raw, &context, problems) }
    }

    fn finding(&self, problem: crate::types::Problem) -> Finding {
        let path: KeyPath = problem.path.clone();
        Finding::locate(
            problem,
            |path, at_key| self.tree.locate(path, at_key),
            |text| self.redactor.redact(text, self.tree.at(&path)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        route::TargetConfig,
        tls::{CertificateSource, acme::KeyType},
        types::EndpointAddress,
        upstream::UpstreamConfig,
    };

    const SITE: &str = "[sites.shop]\nhosts = [\"shop.test\"]\nendpoints = [\"127.0.0.1:9001\"]\n";

    fn variable(name: &str) -> Option<String> {
        (name == "TOKEN").then(|| "Hunter2-Hunter2".to_owned())
    }

    fn bundle(files: &[(&str, &str)]) -> Bundle {
        let source = |(path, text): &(&str, &str)| Source {
            path: PathBuf::from(*path),
            text: Arc::from(*text),
        };
        let found = files.iter().skip(1).map(|(path, _)| PathBuf::from(*path)).collect();
        Bundle {
            files: files.iter().map(source).collect(),
            includes: [("*.toml".to_owned(), found)].into(),
        }
    }

    fn load_text(text: &str) -> Result<Loaded, Report> {
        load_files(&[("main.toml", text)])
    }

    fn load_files(files: &[(&str, &str)]) -> Result<Loaded, Report> {
        let bundle = bundle(files);
        load_from(Path::new("main.toml"), Files::Bundle(&bundle), Environment(&variable))
    }

    fn upstream<'a>(loaded: &'a Loaded, name: &str) -> &'a UpstreamConfig {
        loaded.config.upstreams.iter().find(|upstream| &*upstream.name == name).unwrap()
    }

    #[test]
    fn three_lines_are_enough() {
        let loaded = load_text(SITE).unwrap();
        assert!(loaded.report.is_empty(), "{}", loaded.report);
        let config = &loaded.config;
        let listeners: Vec<_> = config
            .listeners
            .iter()
            .map(|l| (&*l.name, l.address.to_string(), l.protocol.is_tls()))
            .collect();
        assert_eq!(
            listeners,
            [("http", "[::]:80".to_owned(), false), ("https", "[::]:443".to_owned(), true)]
        );
        let site = &config.sites[0];
        assert_eq!((&*site.name, &site.listeners), ("shop", &None));
        assert_eq!(site.certificate, CertificateSource::Internal);
        assert_eq!(&*site.routes[0].name, "default");
        let TargetConfig::Upstream(name) = &site.routes[0].target else { panic!() };
        assert_eq!(&**name, "shop");
        assert_eq!(upstream(&loaded, "shop").endpoints.len(), 1);
    }

    #[test]
    fn public_names_get_their_certificate_by_acme() {
        let loaded = load_text(&SITE.replace("shop.test", "shop.example.com")).unwrap();
        assert_eq!(loaded.config.sites[0].certificate, CertificateSource::Acme(KeyType::Ecdsa));
        assert!(loaded.report.is_empty(), "{}", loaded.report);
        let wildcard = SITE.replace("shop.test", "*.shop.example.com");
        assert_eq!(load_text(&wildcard).unwrap().report.warnings(), 1);
        // No TLS listener, no certificate, no warning.
        let plain = format!(
            "[listeners.web]\naddress = \":80\"\n{}",
            SITE.replace("shop.test", "*.shop.example.com")
        );
        assert!(load_text(&plain).unwrap().report.is_empty());
    }

    #[test]
    fn upstreams_take_keys_from_the_one_they_are_like_and_from_the_defaults() {
        let loaded = load_text(
            "[sites.a]\nhosts = [\"a.test\"]\nupstream = \"c\"\n[sites.a.routes.x]\npath = \"/x\"\nendpoints = [\"10.0.0.9:1\"]\n\
             [upstream_defaults]\ntimeouts = { connect = \"7s\", idle = \"8s\" }\nretries = { tries = 3 }\n\
             [upstreams.a]\nendpoints = [\"10.0.0.1:1\"]\ntimeouts = { idle = \"9s\" }\nhealth_check = { path = \"/a\", port = 5 }\n\
             [upstreams.b]\nlike = \"a\"\nhealth_check = { path = \"/b\" }\n\
             [upstreams.c]\nlike = \"b\"\nendpoints = [\"10.0.0.3:1\"]\n",
        )
        .unwrap();
        let c = upstream(&loaded, "c");
        assert_eq!(c.endpoints[0].address, "10.0.0.3:1".parse::<EndpointAddress>().unwrap());
        assert_eq!(
            (c.timeouts.connect.as_secs(), c.timeouts.idle.as_secs(), c.retries.tries),
            (7, 9, 3)
        );
        let check = c.health_check.as_ref().unwrap();
        assert_eq!((check.path.as_str(), check.port), ("/b", Some(5)));
        assert_eq!(
            upstream(&loaded, "b").endpoints[0].address,
            "10.0.0.1:1".parse::<EndpointAddress>().unwrap()
        );
        let implicit = upstream(&loaded, "a.x");
        assert_eq!((implicit.retries.tries, implicit.timeouts.idle.as_secs()), (3, 8));
    }

    #[test]
    fn fragments_are_one_configuration_whatever_their_order() {
        let (main, a, b) = (
            "include = [\"*.toml\"]\n",
            "[sites.a]\nhosts = [\"a.test\"]\nupstream = \"u\"\n",
            "[upstreams.u]\nendpoints = [\"10.0.0.1:1\"]\n",
        );
        let one = load_files(&[("main.toml", main), ("a.toml", a), ("b.toml", b)]).unwrap();
        let other = load_files(&[("main.toml", main), ("a.toml", b), ("b.toml", a)]).unwrap();
        assert_eq!(one.hash, other.hash);
        assert_eq!(one.files.len(), 3);
        // Written in one file it is the same configuration.
        assert_eq!(load_text(&format!("{a}{b}# comment\n")).unwrap().hash, one.hash);
        assert_ne!(load_text(&format!("{a}{b}retries = {{ tries = 1 }}")).unwrap().hash, one.hash);
    }

    #[test]
    fn later_problems_are_located_too() {
        let loaded = load_text(SITE).unwrap();
        let mut problems = Problems::new();
        problems.error(&KeyPath::of(&["sites", "shop", "certificate", "chain"]), "no such file");
        let report = loaded.report_of(problems);
        let diagnostic = report.diagnostics().next().unwrap();
        assert_eq!((diagnostic.line, diagnostic.column), (Some(1), Some(8)));
        assert_eq!(
            report.render(false).lines().next().unwrap(),
            "main.toml:1:8 sites.shop.certificate.chain: no such file"
        );
    }

    #[test]
    fn values_of_the_environment_never_show_up() {
        for text in [
            SITE.replace("shop.test", "${TOKEN} x"),
            SITE.replace("endpoints = [\"127.0.0.1:9001\"]", "upstream = \"${TOKEN}\""),
            SITE.replace("127.0.0.1:9001", "${TOKEN}"),
            format!("{SITE}max_body = \"${{TOKEN}}\"\n[log]\nlevel = \"${{TOKEN}}\""),
            // A host that two sites have is named by the second one.
            format!(
                "{}{}",
                SITE.replace("shop.test", "${TOKEN}"),
                SITE.replace("sites.shop", "sites.other").replace("shop.test", "hunter2-hunter2")
            ),
        ] {
            let report = load_text(&text).unwrap_err();
            for shown in [report.render(true), report.to_json().to_string()] {
                let first = shown.lines().next().unwrap_or_default().to_ascii_lowercase();
                assert!(!first.contains("hunter2"), "{shown}");
                assert!(!shown.contains("Hunter2"), "{shown}");
            }
        }
        let secret = load_text(&format!("{SITE}[admin]\ntoken = \"in-the-file\"")).unwrap_err();
        assert!(!secret.render(false).contains("in-the-file"), "{secret}");
    }

    #[test]
    fn the_json_has_every_field() {
        let report = load_text(&SITE.replace("endpoints", "endpoint")).unwrap_err();
        assert_eq!(
            report.to_json(),
            serde_json::json!([{
                "severity": "error",
                "file": "main.toml",
                "line": 3,
                "column": 1,
                "path": "sites.shop.endpoint",
                "message": "unknown key \"endpoint\"; did you mean \"endpoints\"?",
                "help": null,
                "related": null,
            }])
        );
    }

    #[test]
    fn what_was_taken_out_is_not_unknown() {
        // The upstream is wrong, not the route that names it.
        let text = format!(
            "{}[upstreams]\nweb = 3",
            SITE.replace("endpoints = [\"127.0.0.1:9001\"]", "upstream = \"web\"")
        );
        assert_eq!(load_text(&text).unwrap_err().errors(), 1);
    }

    #[test]
    fn any_bytes_are_taken_without_a_panic() {
        let mut text = std::fs::read_to_string("conf/examples/edge.d/shop.toml").unwrap();
        text.push_str(SITE);
        for at in (0..text.len()).filter(|at| text.is_char_boundary(*at)).step_by(7) {
            for piece in ["", "[", "\"", "= ", "\n", "{", "${", "é", "1e999", "0x"] {
                let mut changed = text.clone();
                changed.insert_str(at, piece);
                changed.truncate(if piece.is_empty() { at } else { changed.len() });
                if let Err(report) = load_text(&changed) {
                    assert!(report.has_errors() && !report.render(false).is_empty());
                }
            }
        }
    }
}
