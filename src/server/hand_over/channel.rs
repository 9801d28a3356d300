//! What two processes say to each other at an upgrade, and how it is put on the hand-over socket.
//!
//! A message is its length (four bytes, network order) and JSON. Sockets follow an offer: one byte for up to
//! [`SOCKETS_AT_ONCE`] of them, which are attached to it (`SCM_RIGHTS`, unix(7)). Both sides block, with time limits.
//!
//! ```text
//! new ── ask ──▶ old
//! new ◀─ offer, sockets ── old     or: refused
//! new ── ready ──▶ old             or: it goes away, and the old one serves on
//! new ◀─ confirmed ── old          or: gave up, the old one waited too long and serves on
//! ```

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use rustix::{
    io::retry_on_intr,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt::socket_peercred,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::listener::{Label, PassedSockets};

/// Of the messages. Keys may be added within a version; unknown ones are ignored.
pub(super) const VERSION: u32 = 1;
/// The longest message, in bytes.
const MAX_MESSAGE: u32 = 1 << 20;
/// The most sockets of one edge.
const MAX_SOCKETS: usize = 8_192;
/// The kernel's own limit for one message is 253 (`SCM_MAX_FD`).
const SOCKETS_AT_ONCE: usize = 64;

/// What the new process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "says", rename_all = "kebab-case")]
pub(super) enum FromNew {
    /// It wants the sockets.
    Ask {
        /// Its [`VERSION`].
        version: u32,
        /// Its release, for the log.
        release: String,
    },
    /// It accepts connections on these of the sets, by their places in the offer. It has closed the others.
    Ready {
        /// Which.
        taken: Vec<usize>,
    },
}

/// What the old process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "says", rename_all = "kebab-case")]
pub(super) enum FromOld {
    /// The sockets follow.
    Offer {
        /// Its [`VERSION`].
        version: u32,
        /// Its release, for the log.
        release: String,
        /// What they are, in order.
        sets: Vec<OfferedSet>,
    },
    /// It hands nothing over.
    Refused {
        /// Why.
        reason: String,
    },
    /// It has stopped accepting, and drains.
    Confirmed,
    /// It waited too long, and serves on.
    GaveUp,
}

/// One entry of an offer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OfferedSet {
    pub(super) label: Label,
    pub(super) sockets: usize,
}

/// A connection between the two.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    /// The other process, as the kernel knows it.
    pub(super) peer: u32,
}

impl Channel {
    /// Looks who is at the other end.
    ///
    /// # Errors
    /// It is a process of another user, and not root's.
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        let credentials = socket_peercred(&stream)?;
        if !credentials.uid.is_root() && credentials.uid != rustix::process::geteuid() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("process {} is of another user", credentials.pid),
            ));
        }
        let peer = u32::try_from(credentials.pid.as_raw_nonzero().get())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(Self { stream, peer })
    }

    /// How long each further step may take.
    pub(super) fn limit(&self, time: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(time))?;
        self.stream.set_write_timeout(Some(time))
    }

    pub(super) fn send(&self, message: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let length = u32::try_from(text.len()).ok().filter(|length| *length <= MAX_MESSAGE);
        let length = length.ok_or_else(|| wrong("the message is too long"))?;
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend_from_slice(&text);
        (&self.stream).write_all(&bytes)
    }

    pub(super) fn receive<M: DeserializeOwned>(&self) -> io::Result<M> {
        let mut length = [0; 4];
        (&self.stream).read_exact(&mut length)?;
        let length = u32::from_be_bytes(length);
        if length > MAX_MESSAGE {
            return Err(wrong("a message is too long"));
        }
        let mut text = vec![0; length as usize];
        (&self.stream).read_exact(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Sends the sockets of an offer.
    pub(super) fn send_sockets(&self, sets: &[PassedSockets]) -> io::Result<()> {
        let all: Vec<BorrowedFd<'_>> =
            sets.iter().flat_map(|set| &set.sockets).map(AsFd::as_fd).collect();
        for some in all.chunks(SOCKETS_AT_ONCE) {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_AT_ONCE))];
            let mut attached = SendAncillaryBuffer::new(&mut space);
            if !attached.push(SendAncillaryMessage::ScmRights(some)) {
                return Err(wrong("the sockets have no room in a message"));
            }
            // With a time limit on the socket, a signal interrupts these calls always: signal(7).
            let sent = retry_on_intr(|| {
                sendmsg(&self.stream, &[IoSlice::new(b"s")], &mut attached, SendFlags::NOSIGNAL)
            })?;
            if sent != 1 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Receives the sockets of an offer.
    ///
    /// # Errors
    /// They don't come whole: this process may have as many file descriptors as it is allowed to.
    pub(super) fn receive_sockets(&self, offer: Vec<OfferedSet>) -> io::Result<Vec<PassedSockets>> {
        let count = offer.iter().try_fold(0_usize, |sum, set| sum.checked_add(set.sockets));
        let Some(count) = count.filter(|count| *count <= MAX_SOCKETS) else {
            return Err(wrong("too many sockets"));
        };
        let mut received: Vec<OwnedFd> = Vec::with_capacity(count);
        while received.len() < count {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_AT_ONCE))];
            let mut attached = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            let got = retry_on_intr(|| {
                let mut read = [IoSliceMut::new(&mut byte)];
                recvmsg(&self.stream, &mut read, &mut attached, RecvFlags::CMSG_CLOEXEC)
            })?;
            let before = received.len();
            for message in attached.drain() {
                if let RecvAncillaryMessage::ScmRights(sockets) = message {
                    received.extend(sockets);
                }
            }
            if got.bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if got.flags.contains(ReturnFlags::CTRUNC) || received.len() == before {
                return Err(wrong(
                    "the sockets did not come whole; are there file descriptors left?",
                ));
            }
        }
        if received.len() > count {
            return Err(wrong("more sockets than were offered"));
        }
        let mut received = received.into_iter();
        Ok(offer
            .into_iter()
            .map(|OfferedSet { label, sockets }| PassedSockets {
                label,
                sockets: received.by_ref().take(sockets).collect(),
            })
            .collect())
    }
}

fn wrong(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::listener::Role;

    fn pair() -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        let channels = (Channel::new(one).unwrap(), Channel::new(other).unwrap());
        channels.0.limit(Duration::from_secs(5)).unwrap();
        channels.1.limit(Duration::from_secs(5)).unwrap();
        channels
    }

    fn offer_of(sets: &[PassedSockets]) -> Vec<OfferedSet> {
        sets.iter()
            .map(|set| OfferedSet { label: set.label.clone(), sockets: set.sockets.len() })
            .collect()
    }

    #[test]
    fn sockets_arrive_in_order_in_more_than_one_message() {
        let sizes = [1, 2 * SOCKETS_AT_ONCE + 3, 1];
        let (old, new) = pair();
        let mut addresses = Vec::new();
        let sets: Vec<PassedSockets> = sizes
            .iter()
            .enumerate()
            .map(|(at, size)| {
                let listeners: Vec<TcpListener> =
                    (0..*size).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
                addresses.extend(listeners.iter().map(|socket| socket.local_addr().unwrap()));
                PassedSockets {
                    label: Label {
                        role: Role::Listener(format!("l{at}").parse().unwrap()),
                        address: "127.0.0.1:0".parse().unwrap(),
                        owns_file: true,
                    },
                    sockets: listeners.into_iter().map(OwnedFd::from).collect(),
                }
            })
            .collect();
        let offer = offer_of(&sets);
        old.send_sockets(&sets).unwrap();
        let received = new.receive_sockets(offer).unwrap();
        drop(sets);
        assert_eq!(received.iter().map(|set| set.sockets.len()).collect::<Vec<_>>(), sizes);
        let sockets = received.into_iter().flat_map(|set| set.sockets).map(TcpListener::from);
        for (socket, address) in sockets.zip(addresses) {
            assert_eq!(socket.local_addr().unwrap(), address);
            // The same socket, not a copy: what was connected to the sender's is accepted here.
            let client = TcpStream::connect(address).unwrap();
            assert_eq!(socket.accept().unwrap().1, client.local_addr().unwrap());
        }
    }

    #[test]
    fn what_does_not_come_whole_is_an_error() {
        let (old, new) = pair();
        (&old.stream).write_all(b"s").unwrap();
        let offered = || {
            vec![OfferedSet {
                label: Label {
                    role: Role::Admin,
                    address: "127.0.0.1:0".parse().unwrap(),
                    owns_file: true,
                },
                sockets: 1,
            }]
        };
        assert!(new.receive_sockets(offered()).is_err(), "a byte without a socket");
        drop(old);
        assert!(new.receive_sockets(offered()).is_err(), "the end");
        let (old, new) = pair();
        (&old.stream).write_all(&(MAX_MESSAGE + 1).to_be_bytes()).unwrap();
        assert!(new.receive::<FromOld>().is_err(), "too long");
    }

    #[test]
    fn messages_have_a_form_that_later_versions_must_keep() {
        let text = |message: &FromOld| serde_json::to_string(message).unwrap();
        assert_eq!(text(&FromOld::Confirmed), r#"{"says":"confirmed"}"#);
        let offer = FromOld::Offer {
            version: 1,
            release: "0.1.0".into(),
            sets: vec![OfferedSet {
                label: Label {
                    role: Role::Listener("web".parse().unwrap()),
                    address: ":80".parse().unwrap(),
                    owns_file: true,
                },
                sockets: 2,
            }],
        };
        assert_eq!(
            text(&offer),
            r#"{"says":"offer","version":1,"release":"0.1.0","sets":[{"label":{"role":{"listener":"web"},"address":"[::]:80","owns_file":true},"sockets":2}]}"#
        );
        let later = r#"{"says":"ready","taken":[0],"more":true}"#;
        assert!(
            matches!(serde_json::from_str(later), Ok(FromNew::Ready { taken }) if taken == [0])
        );
    }
}
