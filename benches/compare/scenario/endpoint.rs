//! An endpoint that can be made to fail. In this process: at a few thousand requests a second it costs next to nothing.

use std::{
    cell::Cell,
    io,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Notify, Semaphore},
    task::{JoinHandle, JoinSet},
};

/// The path of health checks, which are not counted.
pub(super) const HEALTH: &str = "/healthz";

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Answers.
    Good,
    /// Takes connections and requests, and never answers.
    Hung,
    /// Resets the connection when a request has come.
    Resetting,
}

/// What its connections share.
struct State {
    mode: Cell<Mode>,
    changed: Notify,
    asked: Cell<u64>,
    /// How many requests it works on at once; the others wait.
    hands: Semaphore,
    work: Duration,
    answer: Vec<u8>,
}

/// A running endpoint.
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    state: Rc<State>,
    task: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Answers each request after `work`, `hands` at once.
    pub(super) fn start(hands: usize, work: Duration, body_bytes: usize) -> Result<Self> {
        let mut answer =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {body_bytes}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + body_bytes, b'x');
        let state = Rc::new(State {
            mode: Cell::new(Mode::Good),
            changed: Notify::new(),
            asked: Cell::new(0),
            hands: Semaphore::new(hands),
            work,
            answer,
        });
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = listener.local_addr()?;
        let task = tokio::task::spawn_local(accept(listener, state.clone()));
        Ok(Self { address, state, task: Some(task) })
    }

    pub(super) fn set(&self, mode: Mode) {
        self.state.mode.set(mode);
        self.state.changed.notify_waiters();
    }

    /// Its listener and connections are gone, as if its process had been killed.
    pub(super) fn kill(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    /// Requests that came, but for health checks.
    pub(super) fn asked(&self) -> u64 {
        self.state.asked.get()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.kill();
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address).context("an endpoint can't listen")?;
    Ok(socket.listen(1_024)?)
}

async fn accept(listener: TcpListener, state: Rc<State>) {
    // Its connections end with it.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        connections.spawn_local(async move { drop(serve(stream, &state).await) });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut stream: TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 8 << 10];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        if !buffer[..filled].ends_with(b"\r\n\r\n") {
            continue;
        }
        let is_probe = String::from_utf8_lossy(&buffer[..filled.min(64)]).contains(HEALTH);
        filled = 0;
        if !is_probe {
            state.asked.set(state.asked.get() + 1);
        }
        match state.mode.get() {
            Mode::Good => {}
            Mode::Hung => {
                state.changed.notified().await;
                return Ok(());
            }
            Mode::Resetting => return SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
        }
        if !is_probe {
            let _hand = state.hands.acquire().await.map_err(io::Error::other)?;
            tokio::time::sleep(state.work).await;
        }
        stream.write_all(&state.answer).await?;
    }
}
