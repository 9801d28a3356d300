//! HAProxy: one thread, without the master process.

use std::{fmt::Write as _, fs};

use anyhow::Result;

use super::{Setup, find};
use crate::{options::Series, process::Process};

pub(super) fn start(setup: &Setup<'_>) -> Result<Process> {
    let file = setup.folder.join("haproxy.cfg");
    fs::write(&file, configuration(setup))?;
    let file = file.display().to_string();
    Process::start("haproxy", setup.core, setup.folder, &find("haproxy")?, &["-db", "-f", &file])
}

fn configuration(setup: &Setup<'_>) -> String {
    let mut servers = String::new();
    for (number, endpoint) in setup.endpoints.iter().enumerate() {
        // Writing to a String never fails.
        let _ = writeln!(servers, "    server origin{number} {endpoint} {}", server(setup.series));
    }
    let (listen, port) = (setup.listen, setup.listen.port());
    let bind = match setup.certificate {
        Some(certificate) => {
            format!("{listen} ssl crt {} alpn h2,http/1.1 ssl-min-ver TLSv1.2", certificate.both)
        }
        None => listen.to_string(),
    };
    let proto = if setup.certificate.is_some() { "https" } else { "http" };
    // Standard output is a file here.
    let (log, log_form) = if setup.series == Series::Logged {
        ("log stdout format raw local0", "log global\n    option httplog")
    } else {
        ("", "")
    };
    let (connect, timeouts, retries) = resilience(setup.series);
    format!(
        r#"global
    nbthread 1
    maxconn 8192
    {log}

defaults
    mode http
    {connect}
    timeout client 75s
    timeout http-request 10s
    timeout http-keep-alive 75s
    {timeouts}

frontend edge
    bind {bind}
    {log_form}
    http-request set-header X-Forwarded-For %[src]
    http-request set-header X-Forwarded-Proto {proto}
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Port {port}
    http-request set-header Forwarded 'for=%[src];proto={proto};host="%[req.hdr(host)]"'
    http-request set-header X-Request-Id %[uuid()]
    default_backend origin

backend origin
    balance leastconn
    http-reuse always
    {retries}
{servers}
"#
    )
}

/// Health of a server and how much it gets.
fn server(series: Series) -> &'static str {
    match series {
        Series::Failures => {
            "check inter 1s fall 2 rise 2 observe layer7 error-limit 3 on-error mark-down slowstart 10s"
        }
        Series::Overload => "maxconn 8 maxqueue 32",
        _ => "",
    }
}

/// Timeouts and retries.
fn resilience(series: Series) -> (&'static str, &'static str, &'static str) {
    match series {
        Series::Failures => (
            "timeout connect 500ms",
            "timeout server 500ms\n    timeout check 500ms",
            "option httpchk GET /healthz\n    retries 2\n    option redispatch 1\n    \
             retry-on conn-failure empty-response response-timeout",
        ),
        Series::Overload => {
            ("timeout connect 2s", "timeout server 60s\n    timeout queue 100ms", "")
        }
        _ => ("timeout connect 2s", "timeout server 60s", ""),
    }
}
