#![no_main]

#[path = "../../tests/suite/fuzzed.rs"]
mod fuzzed;

use std::sync::Once;

static HOOK: Once = Once::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // libFuzzer's hook ends the process at every panic, also at one that the library catches. One that
    // comes out of here still ends it.
    HOOK.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    fuzzed::tokenizer(bytes)
});
