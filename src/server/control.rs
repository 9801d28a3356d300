//! What the admin listener shows and does.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use futures_util::future::BoxFuture;

use super::{
    reload::Trigger,
    state::{Core, Phase},
};
use crate::{
    admin::{Control, Readiness, ReloadOutcome, Status},
    telemetry::metrics::{CertificateSample, EndpointSample},
};

/// The edge as the admin listener sees it.
pub(super) struct AdminControl(pub(super) Arc<Core>);
