//! nginx: one worker under its master, as Debian runs it.

use std::{fmt::Write as _, fs};

use anyhow::Result;

use super::{Setup, find};
use crate::{certificate::HOST, options::Series, process::Process};

pub(super) fn start(setup: &Setup<'_>) -> Result<Process> {
    let file = setup.folder.join("nginx.conf");
    fs::write(&file, configuration(setup))?;
    let file = file.display().to_string();
    // The error log of the time before the configuration is read is the system's otherwise.
    let args = ["-e", "stderr", "-p", ".", "-c", &file];
    Process::start("nginx", setup.core, setup.folder, &find("nginx")?, &args)
}

fn configuration(setup: &Setup<'_>) -> String {
    let mut servers = String::new();
    for endpoint in setup.endpoints {
        // Writing to a String never fails.
        let _ = writeln!(servers, "        server {endpoint}{};", server(setup.series));
    }
    let listen = setup.listen;
    let (listen, certificate) = match setup.certificate {
        Some(certificate) => (
            format!("{listen} ssl http2"),
            format!(
                "ssl_certificate {};\n        ssl_certificate_key {};\n        \
                 ssl_protocols TLSv1.2 TLSv1.3;",
                certificate.chain, certificate.key
            ),
        ),
        None => (listen.to_string(), String::new()),
    };
    let access_log =
        if setup.series == Series::Logged { "nginx-access.log combined" } else { "off" };
    // Only root may change the user, and only root must say that it doesn't.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let retries = retries(setup.series);
    // Counts over all workers need it; elsewhere it would only cost.
    let zone = if setup.series.is_scenario() { "zone origin 256k;" } else { "" };
    format!(
        r#"daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile 16384;
pid nginx.pid;
error_log stderr warn;

events {{
    worker_connections 8192;
}}

http {{
    access_log {access_log};
    client_body_temp_path nginx-client;
    proxy_temp_path nginx-proxy;
    fastcgi_temp_path nginx-fastcgi;
    uwsgi_temp_path nginx-uwsgi;
    scgi_temp_path nginx-scgi;
    keepalive_requests 1000000000;

    upstream origin {{
        {zone}
        least_conn;
{servers}
        keepalive 512;
        keepalive_requests 1000000000;
    }}

    server {{
        listen {listen};
        server_name {HOST};
        {certificate}

        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            {retries}
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $host;
            proxy_set_header X-Forwarded-Port $server_port;
            proxy_set_header Forwarded "for=$remote_addr;proto=$scheme;host=\"$host\"";
            proxy_set_header X-Request-Id $request_id;
        }}
    }}
}}
"#
    )
}

/// How a server is judged and how much it gets; the free edition has neither probes nor a queue.
fn server(series: Series) -> &'static str {
    match series {
        Series::Failures => " max_fails=2 fail_timeout=10s",
        Series::Overload => " max_conns=8",
        _ => "",
    }
}

/// Timeouts and retries.
fn retries(series: Series) -> &'static str {
    match series {
        Series::Failures => {
            "proxy_connect_timeout 500ms;\n            proxy_read_timeout 500ms;\n            \
             proxy_next_upstream error timeout;\n            proxy_next_upstream_tries 3;"
        }
        _ => "",
    }
}
