//! Rollouts: moving a route's traffic from one upstream, the stable, to another, the candidate.
//!
//! Place: between the route that names a rollout and the upstreams that it chooses from.
//!
//! Here so far: [`analysis`], the statistical core that judges a candidate. It is pure: no I/O, no clock of its own.

pub mod analysis;
