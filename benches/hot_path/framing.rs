//! What judging a message costs, beside what another parser makes of the same head.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use tidegate::framing::{Body, HeadLimits, RequestHead, ResponseHead};

const REQUEST: &[u8] = b"GET /api/v1/customers/4711?expand=orders HTTP/1.1\r\nHost: a.example\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef\r\nConnection: keep-alive\r\n\r\n";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Sat, 21 Nov 2026 09:00:00 GMT\r\n\
    Content-Type: application/json\r\nContent-Length: 628\r\nCache-Control: no-store\r\n\r\n";

pub(crate) fn bench(criterion: &mut Criterion) {
    let limits = HeadLimits { max_bytes: 32 << 10, max_fields: 100, max_target_bytes: 8 << 10 };
    let mut group = criterion.benchmark_group("framing");
    group.throughput(Throughput::Bytes(REQUEST.len() as u64));
    group.bench_function("request_head", |bencher| {
        bencher.iter(|| RequestHead::default().judge(black_box(REQUEST), &limits));
    });
    group.bench_function("request_head/httparse", |bencher| {
        bencher.iter(|| {
            let mut headers = [httparse::EMPTY_HEADER; 32];
            httparse::Request::new(&mut headers).parse(black_box(REQUEST))
        });
    });
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    group.bench_function("response_head", |bencher| {
        bencher.iter(|| ResponseHead::default().judge(black_box(RESPONSE), false));
    });
    let mut chunked = Vec::new();
    for _ in 0..8 {
        chunked.extend_from_slice(b"2000\r\n");
        chunked.resize(chunked.len() + 0x2000, b'x');
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    group.throughput(Throughput::Bytes(chunked.len() as u64));
    group.bench_function("chunked_64KiB", |bencher| {
        bencher.iter(|| Body::chunked().judge(black_box(&chunked)));
    });
    group.finish();
}
