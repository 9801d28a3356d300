//! Integration tests: one binary.

mod reference_metrics;
