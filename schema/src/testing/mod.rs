//! In-memory ports and conformance suites, for the tests of other crates (feature `testing`).
