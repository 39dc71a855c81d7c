//! libFuzzer's way into `stream_encoding_fuzz::template`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| stream_encoding_fuzz::template::check(input));
