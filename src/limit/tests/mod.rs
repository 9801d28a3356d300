//! Each core by itself, and long seeded runs with their invariants looked at after each step.

mod adaptive;
mod breaker;
mod limiter;
mod overload;
