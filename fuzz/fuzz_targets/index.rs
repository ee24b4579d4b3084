#![no_main]

#[path = "../../tests/suite/fuzzed.rs"]
mod fuzzed;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzed::index(bytes));
