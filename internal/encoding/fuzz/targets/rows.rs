//! libFuzzer's way into `stream_encoding_fuzz::rows`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| stream_encoding_fuzz::rows::check(input));
