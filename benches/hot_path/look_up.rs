//! From a host to a site and from a path to a route. Neither may grow with the number of hosts or routes, expressions
//! excepted: they are one automaton, and asked only where no longer path fits.

use std::hint::black_box;

use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use http::{HeaderMap, Method};
use tidegate::{
    policy::{Conditions, RequestView},
    route::{Found, HostTable, PathMatch, RouteRule, RouteTable},
    types::HostPattern,
};

const SIZES: [usize; 3] = [10, 1_000, 10_000];
/// More expressions than this are more than a site may have in practice, and take seconds to build.
const MAX_EXPRESSIONS: usize = 1_000;

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hosts");
    for size in SIZES {
        hosts(&mut group, size);
    }
    group.finish();
    let mut group = criterion.benchmark_group("routes");
    for size in SIZES {
        routes(&mut group, size);
    }
    for size in SIZES.into_iter().filter(|size| *size <= MAX_EXPRESSIONS) {
        expressions(&mut group, size);
    }
    group.finish();
}

fn hosts(group: &mut BenchmarkGroup<'_, WallTime>, size: usize) {
    let mut table = HostTable::default();
    for i in 0..size {
        let name = format!("shop-{i}.example.com");
        let pattern = if i % 2 == 0 {
            HostPattern::Exact(name.into())
        } else {
            HostPattern::Wildcard(name.into())
        };
        assert!(table.insert(&pattern, i).is_none());
    }
    for (case, host, found) in [
        ("exact", "shop-6.example.com", Some(6)),
        ("wildcard", "www.shop-7.example.com", Some(7)),
        ("unknown", "www.elsewhere.example", None),
    ] {
        assert_eq!(table.find(host).copied(), found, "{case}");
        group.bench_function(format!("{case}/{size}"), |bencher| {
            bencher.iter(|| table.find(black_box(host)).copied());
        });
    }
}

fn table(paths: impl Iterator<Item = PathMatch>) -> RouteTable<usize> {
    let rule = |(i, path): (usize, PathMatch)| RouteRule {
        name: format!("route-{i:05}"),
        path,
        conditions: Conditions::default(),
        priority: 0,
        fall_through: false,
        route: i,
    };
    RouteTable::new(paths.enumerate().map(rule).collect()).unwrap()
}

fn look_up(
    group: &mut BenchmarkGroup<'_, WallTime>,
    table: &RouteTable<usize>,
    case: &str,
    path: &str,
    wanted: Option<usize>,
) {
    let headers = HeaderMap::new();
    let find = |path| {
        let view = RequestView {
            method: &Method::GET,
            path,
            query: None,
            headers: &headers,
            client: None,
        };
        match table.find(&view) {
            Found::Route(route) => Some(*route),
            Found::MethodNotAllowed(_) | Found::NotFound => None,
        }
    };
    assert_eq!(find(path), wanted, "{case}");
    group.bench_function(case, |bencher| bencher.iter(|| find(black_box(path))));
}

/// Half exact paths, half prefixes.
fn routes(group: &mut BenchmarkGroup<'_, WallTime>, size: usize) {
    let table = table((0..size).map(|i| {
        let path = format!("/api/v1/service-{i}");
        if i % 2 == 0 { PathMatch::Exact(path) } else { PathMatch::Prefix(path) }
    }));
    for (case, path, wanted) in [
        ("exact", "/api/v1/service-6", Some(6)),
        ("prefix", "/api/v1/service-7/customers/4711", Some(7)),
        ("not_found", "/api/v2/elsewhere/customers/4711", None),
    ] {
        look_up(group, &table, &format!("{case}/{size}"), path, wanted);
    }
}

fn expressions(group: &mut BenchmarkGroup<'_, WallTime>, size: usize) {
    let expression = |i| regex::Regex::new(&format!("^(?:/files-{i}/[0-9]+)$")).unwrap();
    let table = table((0..size).map(|i| PathMatch::Regex(expression(i))));
    for (case, path, wanted) in
        [("regex", "/files-7/4711", Some(7)), ("regex_not_found", "/files-7/x", None)]
    {
        look_up(group, &table, &format!("{case}/{size}"), path, wanted);
    }
}
