//! The origin: answers every request with the same prepared bytes, at once or after a delay. It must never be the
//! bottleneck, so it does nothing else: it looks for the end of each head and writes.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::process::Process;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    body_bytes: usize,
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
}

/// A running origin.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    _process: Process,
}

impl Origin {
    pub(crate) async fn start(
        name: &str,
        core: usize,
        folder: &Path,
        body_bytes: u32,
        delay: Duration,
    ) -> Result<Self> {
        let own = std::env::current_exe()?;
        let (body, delay) = (body_bytes.to_string(), delay.as_millis().to_string());
        let args = ["origin", "--body-bytes", &body, "--delay-ms", &delay];
        let mut process = Process::start(name, core, folder, &own, &args)?;
        for _ in 0..1_000 {
            if let Some(address) = process.printed().strip_suffix('\n') {
                let address = address.parse().context("the origin did not say its address")?;
                return Ok(Self { address, _process: process });
            }
            anyhow::ensure!(process.is_running(), "the origin ended while it started");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::bail!("the origin does not start")
    }
}

/// The sub-command: serves until it is ended.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nServer: origin\r\nContent-Type: application/json\r\n\
         Cache-Control: no-store\r\nContent-Length: {}\r\n\r\n",
        args.body_bytes
    )
    .into_bytes();
    answer.resize(answer.len() + args.body_bytes, b'x');
    let answer: &'static [u8] = answer.leak();
    let delay = Duration::from_millis(args.delay_ms);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        io::stdout().flush()?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // A client that goes away ends its connection, nothing else.
            tokio::spawn(async move { drop(serve(stream, answer, delay).await) });
        }
    })
}

async fn serve(mut stream: TcpStream, answer: &[u8], delay: Duration) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        // The proxies don't pipeline: a head is the last thing in the buffer.
        if !buffer[..filled].ends_with(b"\r\n\r\n") {
            continue;
        }
        filled = 0;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        stream.write_all(answer).await?;
    }
}
