//! See `checks/config_text.rs`.
#![no_main]

#[path = "../checks/config_text.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
