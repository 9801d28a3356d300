//! Certificates for tests, made afresh.
