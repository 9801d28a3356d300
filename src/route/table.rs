//! Look-up of hosts and routes: hashes and one set of expressions, never a walk over all of them.
//!
//! Place: right after the request's path was normalised. Most specific first: exact path, longest prefix, expression, and
//! last the prefix `/`, which takes every path; then the number of other conditions; then the name. `priority` goes
//! before all of it. Why `/` stands last: docs/adr/0007-catch-all-last.md.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use http::Method;
use regex::{Regex, RegexSet};

use super::config::PathMatch;
use crate::{
    policy::{Conditions, RequestView},
    types::HostPattern,
};

/// Values by host name: exact before wildcard.
#[derive(Clone, Debug)]
pub struct HostTable<T> {
    exact: HashMap<Box<str>, T, RandomState>,
    wildcard: HashMap<Box<str>, T, RandomState>,
}

impl<T> Default for HostTable<T> {
    fn default() -> Self {
        Self { exact: HashMap::default(), wildcard: HashMap::default() }
    }
}

impl<T> HostTable<T> {
    /// Adds a host; the value that it had is given back.
    pub fn insert(&mut self, host: &HostPattern, value: T) -> Option<T> {
        match host {
            HostPattern::Exact(name) => self.exact.insert(name.clone(), value),
            HostPattern::Wildcard(parent) => self.wildcard.insert(parent.clone(), value),
        }
    }

    /// The value of a lower-case host name without port.
    pub fn find(&self, host: &str) -> Option<&T> {
        self.exact.get(host).or_else(|| {
            let (label, parent) = host.split_once('.')?;
            if label.is_empty() { None } else { self.wildcard.get(parent) }
        })
    }

    /// Whether there is no host.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty()
    }
}

/// What a look-up found.
#[derive(Debug)]
pub enum Found<'a, R> {
    /// A route.
    Route(&'a R),
    /// The path fits and no route of it takes the method: 405 with these in `Allow`.
    MethodNotAllowed(Vec<Method>),
    /// 404.
    NotFound,
}

/// One route as the table needs it.
#[derive(Debug)]
struct Entry<R> {
    conditions: Conditions,
    fall_through: bool,
    route: R,
}

/// Routes that have the same path, in the order in which they are asked.
type Group = Box<[usize]>;

/// Routes of one priority.
#[derive(Debug, Default)]
struct Level {
    exact: HashMap<Box<str>, Group, RandomState>,
    prefix: HashMap<Box<str>, Group, RandomState>,
    /// The expressions, where there are some (an empty set takes kilobytes), and beside each the routes that have it.
    expressions: Option<RegexSet>,
    expression_groups: Vec<Group>,
}

/// The routes of a site.
#[derive(Debug)]
pub struct RouteTable<R> {
    entries: Vec<Entry<R>>,
    /// Highest priority first.
    levels: Vec<Level>,
}

/// A route on its way into a [`RouteTable`].
#[derive(Debug)]
pub struct RouteRule<R> {
    /// Its name: the last thing that decides on the order.
    pub name: String,
    /// Which paths it takes.
    pub path: PathMatch,
    /// What else a request must satisfy.
    pub conditions: Conditions,
    /// Asked earlier when higher.
    pub priority: i32,
    /// Go on where only a condition fails.
    pub fall_through: bool,
    /// What is found.
    pub route: R,
}

/// How a group of routes with one path answers a request.
enum Verdict<'a, R> {
    Takes(&'a R),
    Refuses(Option<Vec<Method>>),
    FallsThrough,
}

impl<R> RouteTable<R> {
    /// Builds the table.
    ///
    /// # Errors
    /// The expressions together are too large.
    pub fn new(mut rules: Vec<RouteRule<R>>) -> Result<Self, regex::Error> {
        rules.sort_by(|a, b| {
            (b.priority, b.conditions.count(), &a.name).cmp(&(
                a.priority,
                a.conditions.count(),
                &b.name,
            ))
        });
        let mut entries = Vec::with_capacity(rules.len());
        let mut levels: Vec<Level> = Vec::new();
        let mut building: Option<(i32, LevelBuilder)> = None;
        for rule in rules {
            let index = entries.len();
            if building.as_ref().is_none_or(|(priority, _)| *priority != rule.priority) {
                if let Some((_, done)) = building.take() {
                    levels.push(done.finish()?);
                }
                building = Some((rule.priority, LevelBuilder::default()));
            }
            if let Some((_, level)) = building.as_mut() {
                level.add(&rule.path, index);
            }
            entries.push(Entry {
                conditions: rule.conditions,
                fall_through: rule.fall_through,
                route: rule.route,
            });
        }
        if let Some((_, done)) = building {
            levels.push(done.finish()?);
        }
        Ok(Self { entries, levels })
    }

    /// The same table with other values.
    pub fn map<S>(self, mut change: impl FnMut(R) -> S) -> RouteTable<S> {
        let change = |entry: Entry<R>| Entry {
            conditions: entry.conditions,
            fall_through: entry.fall_through,
            route: change(entry.route),
        };
        // Collected, they would stay in the memory of the old ones, which may be several times as large.
        let mut entries = Vec::with_capacity(self.entries.len());
        entries.extend(self.entries.into_iter().map(change));
        RouteTable { entries, levels: self.levels }
    }

    /// The routes, in no order that matters.
    pub fn routes(&self) -> impl Iterator<Item = &R> {
        self.entries.iter().map(|entry| &entry.route)
    }

    /// The route of a request.
    pub fn find(&self, request: &RequestView<'_>) -> Found<'_, R> {
        for level in &self.levels {
            for group in level.groups(request.path) {
                match self.ask(group, request) {
                    Verdict::Takes(route) => return Found::Route(route),
                    Verdict::Refuses(None) => return Found::NotFound,
                    Verdict::Refuses(Some(methods)) => return Found::MethodNotAllowed(methods),
                    Verdict::FallsThrough => {}
                }
            }
        }
        Found::NotFound
    }

    fn ask(&self, group: &[usize], request: &RequestView<'_>) -> Verdict<'_, R> {
        let mut may_fall_through = true;
        let mut other_methods: Vec<Method> = Vec::new();
        for entry in group.iter().filter_map(|index| self.entries.get(*index)) {
            let conditions = &entry.conditions;
            if conditions.hold_but_for_method(request) {
                if conditions.take_method(request.method) {
                    return Verdict::Takes(&entry.route);
                }
                other_methods.extend(conditions.methods.iter().cloned());
            }
            may_fall_through &= entry.fall_through;
        }
        if may_fall_through {
            Verdict::FallsThrough
        } else if other_methods.is_empty() {
            Verdict::Refuses(None)
        } else {
            Verdict::Refuses(Some(other_methods))
        }
    }
}

#[derive(Default)]
struct LevelBuilder {
    exact: HashMap<Box<str>, Vec<usize>>,
    prefix: HashMap<Box<str>, Vec<usize>>,
    expressions: Vec<(String, Vec<usize>)>,
}

impl LevelBuilder {
    /// Adds a route; they come in the order in which they are asked.
    fn add(&mut self, path: &PathMatch, index: usize) {
        match path {
            PathMatch::Exact(path) => {
                self.exact.entry(path.as_str().into()).or_default().push(index);
            }
            PathMatch::Prefix(prefix) => {
                self.prefix.entry(prefix.as_str().into()).or_default().push(index);
            }
            PathMatch::Regex(regex) => {
                match self.expressions.iter_mut().find(|(text, _)| text == regex.as_str()) {
                    Some((_, group)) => group.push(index),
                    None => self.expressions.push((regex.as_str().to_owned(), vec![index])),
                }
            }
        }
    }

    fn finish(self) -> Result<Level, regex::Error> {
        let boxed = |map: HashMap<Box<str>, Vec<usize>>| {
            map.into_iter().map(|(path, group)| (path, group.into_boxed_slice())).collect()
        };
        let expressions = if self.expressions.is_empty() {
            None
        } else {
            Some(RegexSet::new(self.expressions.iter().map(|(text, _)| text))?)
        };
        Ok(Level {
            exact: boxed(self.exact),
            prefix: boxed(self.prefix),
            expressions,
            expression_groups: self
                .expressions
                .into_iter()
                .map(|(_, group)| group.into_boxed_slice())
                .collect(),
        })
    }
}

impl Level {
    /// The groups whose path fits, most specific first: one hash for the whole path, one for each of its prefixes, the
    /// expressions, and last the prefix that takes every path.
    fn groups<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Group> {
        let exact = self.exact.get(path);
        let prefixes = prefixes(path)
            .filter(|_| !self.prefix.is_empty())
            .filter_map(|prefix| self.prefix.get(prefix));
        let matches = self.expressions.as_ref().map(|expressions| expressions.matches(path));
        let expressions = matches.into_iter().flat_map(|matches| {
            matches.into_iter().filter_map(|index| self.expression_groups.get(index))
        });
        exact.into_iter().chain(prefixes).chain(expressions).chain(self.prefix.get(""))
    }
}

/// The prefixes of whole segments, longest first: `/a/b` gives `/a/b`, `/a` and the empty one; `/a/` gives `/a` first.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let first = path.strip_suffix('/').unwrap_or(path);
    std::iter::successors(Some(first), |prefix| {
        prefix.rfind('/').and_then(|slash| prefix.get(..slash))
    })
}

/// Fills a template from an expression's groups and from what the caller knows.
pub fn capture<'a>(regex: &Regex, path: &'a str) -> impl Fn(&str) -> Option<&'a str> {
    let captures = regex.captures(path);
    move |name| {
        let captures = captures.as_ref()?;
        let group = match name.parse::<usize>() {
            Ok(number) => captures.get(number),
            Err(_) => captures.name(name),
        };
        group.map(|group| group.as_str())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;
    use crate::policy::ValueMatch;

    fn rule(name: &'static str, path: PathMatch) -> RouteRule<&'static str> {
        RouteRule {
            name: name.to_owned(),
            path,
            conditions: Conditions::default(),
            priority: 0,
            fall_through: false,
            route: name,
        }
    }

    fn exact(path: &str) -> PathMatch {
        PathMatch::Exact(path.to_owned())
    }

    fn prefix(path: &str) -> PathMatch {
        PathMatch::Prefix(path.to_owned())
    }

    fn regex(text: &str) -> PathMatch {
        PathMatch::Regex(Regex::new(&format!("^(?:{text})$")).unwrap())
    }

    fn look_up(table: &RouteTable<&'static str>, method: &Method, path: &str) -> String {
        let headers = HeaderMap::new();
        match table.find(&RequestView {
            method,
            path,
            query: None,
            headers: &headers,
            client: None,
        }) {
            Found::Route(name) => (*name).to_owned(),
            Found::MethodNotAllowed(methods) => format!("405 {methods:?}"),
            Found::NotFound => "404".to_owned(),
        }
    }

    #[test]
    fn the_most_specific_path_wins() {
        let table = RouteTable::new(vec![
            rule("all", prefix("")),
            rule("api", prefix("/api")),
            rule("api-v2", prefix("/api/v2")),
            rule("one", exact("/api/one")),
            rule("files", regex("(/api)?/files/([0-9]+)")),
            rule("slash", exact("/api/")),
        ])
        .unwrap();
        for (path, name) in [
            ("/", "all"),
            ("/x", "all"),
            ("/apix", "all"),
            ("/api", "api"),
            ("/api/", "slash"),
            ("/api/x/y", "api"),
            ("/api/v2", "api-v2"),
            ("/api/v2/", "api-v2"),
            ("/api/v2x", "api"),
            ("/api/one", "one"),
            ("/api/one/", "api"),
            // A longer prefix goes before an expression; here only the empty prefix fits, which still does.
            ("/files/12", "all"),
        ] {
            assert_eq!(look_up(&table, &Method::GET, path), name, "{path}");
        }
    }

    #[test]
    fn an_expression_is_found_where_no_prefix_is() {
        let table = RouteTable::new(vec![
            rule("api", prefix("/api")),
            rule("files", regex("/files/([0-9]+)")),
        ])
        .unwrap();
        assert_eq!(look_up(&table, &Method::GET, "/files/12"), "files");
        assert_eq!(look_up(&table, &Method::GET, "/files/12/x"), "404");
    }

    #[test]
    fn a_failing_method_is_405_and_not_the_next_route() {
        let mut post = rule("post", prefix("/api"));
        post.conditions.methods = vec![Method::POST];
        let table = RouteTable::new(vec![post, rule("all", prefix(""))]).unwrap();
        assert_eq!(look_up(&table, &Method::POST, "/api/x"), "post");
        assert_eq!(look_up(&table, &Method::GET, "/api/x"), "405 [POST]");
        assert_eq!(look_up(&table, &Method::GET, "/x"), "all");
    }

    #[test]
    fn fall_through_goes_on_and_priority_goes_first() {
        let mut post = rule("post", prefix("/api"));
        post.conditions.methods = vec![Method::POST];
        post.fall_through = true;
        let mut first = rule("first", prefix(""));
        first.priority = 10;
        first.fall_through = true;
        first.conditions.headers = vec![(http::header::COOKIE, ValueMatch::Present)];
        let table = RouteTable::new(vec![post, rule("all", prefix("")), first]).unwrap();
        assert_eq!(look_up(&table, &Method::GET, "/api/x"), "all");
        let mut headers = HeaderMap::new();
        headers.insert(http::header::COOKIE, "a=b".parse().unwrap());
        let view = RequestView {
            method: &Method::POST,
            path: "/api",
            query: None,
            headers: &headers,
            client: None,
        };
        assert!(matches!(table.find(&view), Found::Route(&"first")));
    }

    #[test]
    fn get_stands_for_head() {
        let mut get = rule("get", prefix(""));
        get.conditions.methods = vec![Method::GET];
        let table = RouteTable::new(vec![get]).unwrap();
        assert_eq!(look_up(&table, &Method::HEAD, "/"), "get");
        assert_eq!(look_up(&table, &Method::POST, "/"), "405 [GET]");
    }

    #[test]
    fn other_conditions_choose_and_more_of_them_go_first() {
        let mut query = rule("query", prefix(""));
        query.conditions.query = vec![("a".to_owned(), ValueMatch::Equals("1 2".to_owned()))];
        let mut both = rule("both", prefix(""));
        both.conditions.query = query.conditions.query.clone();
        both.conditions.cookies = vec![("c".to_owned(), ValueMatch::Equals("x".to_owned()))];
        let mut net = rule("net", prefix(""));
        net.conditions.client_networks = vec!["10.0.0.0/8".parse().unwrap()];
        let table = RouteTable::new(vec![rule("all", prefix("")), query, both, net]).unwrap();
        let find = |query: Option<&str>, cookie: Option<&str>, client: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(cookie) = cookie {
                headers.insert(http::header::COOKIE, cookie.parse().unwrap());
            }
            let client = client.map(|text| text.parse().unwrap());
            let view =
                RequestView { method: &Method::GET, path: "/", query, headers: &headers, client };
            match table.find(&view) {
                Found::Route(name) => *name,
                _ => "none",
            }
        };
        assert_eq!(find(None, None, None), "all");
        assert_eq!(find(Some("b=2&a=1%202"), None, None), "query");
        assert_eq!(find(Some("a=1+2"), Some("z=1; c=x"), None), "both");
        assert_eq!(find(None, Some("c=x"), Some("10.1.1.1")), "net");
    }

    #[test]
    fn hosts_are_found_exact_before_wildcard() {
        let mut hosts = HostTable::default();
        hosts.insert(&"*.example.com".parse().unwrap(), 1);
        hosts.insert(&"a.example.com".parse().unwrap(), 2);
        assert_eq!(hosts.find("a.example.com"), Some(&2));
        assert_eq!(hosts.find("b.example.com"), Some(&1));
        assert_eq!(hosts.find("x.b.example.com"), None);
        assert_eq!(hosts.find("example.com"), None);
    }

    proptest! {
        /// The table agrees with a scan over all routes.
        #[test]
        fn the_table_agrees_with_a_scan(
            paths in prop::collection::vec("(/[ab]{1,2}){0,3}", 1..12),
            path in "(/[ab]{1,2}){1,4}/?",
        ) {
            let mut unique = paths;
            unique.sort();
            unique.dedup();
            let rules = unique
                .iter()
                .map(|p| RouteRule { name: p.clone(), path: prefix(p), conditions: Conditions::default(), priority: 0, fall_through: false, route: p.clone() })
                .collect();
            let table = RouteTable::new(rules).unwrap();
            let headers = HeaderMap::new();
            let view = RequestView { method: &Method::GET, path: &path, query: None, headers: &headers, client: None };
            let found = match table.find(&view) { Found::Route(route) => Some(route.clone()), _ => None };
            let trimmed = path.strip_suffix('/').unwrap_or(&path);
            let scanned = unique
                .iter()
                .filter(|p| p.is_empty() || trimmed == p.as_str() || trimmed.starts_with(&format!("{p}/")))
                .max_by_key(|p| p.len())
                .cloned();
            prop_assert_eq!(found, scanned);
        }
    }
}
