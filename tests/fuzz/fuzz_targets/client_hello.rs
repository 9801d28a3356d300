//! See `checks/client_hello.rs`.
#![no_main]

#[path = "../checks/client_hello.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
