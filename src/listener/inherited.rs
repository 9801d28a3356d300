//! Listening sockets that come into this process bound: from the edge before it (an upgrade), or from the service manager
//! (socket activation).
//!
//! A listener claims those that are its own; what nobody claims is closed, since connections that wait at a socket which
//! nobody accepts on would hang. A set is claimed whole: each of its sockets has an accept queue of its own.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{
    BoundAddress,
    socket::{BoundSocket, SocketSet, address_of, adopt, overlap},
};
use crate::types::{ListenAddress, Name};

/// What sockets are for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A listener of the data plane.
    Listener(Name),
    /// The admin listener.
    Admin,
    /// Where the next process asks for the sockets.
    HandOver,
    /// What the service manager calls them (`FileDescriptorName=`).
    Activated(String),
}

impl Role {
    /// The name by which a service manager may mean it.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Listener(name) => Some(name),
            Self::Admin => Some("admin"),
            Self::HandOver => None,
            Self::Activated(name) => Some(name),
        }
    }
}

/// What a process says of the sockets that it passes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// What they are for.
    pub role: Role,
    /// Their address as the configuration has it.
    pub address: ListenAddress,
    /// Who has them at their end removes the file of a Unix socket.
    pub owns_file: bool,
}

/// The sockets of one address, on their way to another process.
#[derive(Debug)]
pub struct PassedSockets {
    /// What they are.
    pub label: Label,
    /// One or more.
    pub sockets: Vec<OwnedFd>,
}

impl PassedSockets {
    /// Further handles of a set's sockets.
    ///
    /// # Errors
    /// There are no file descriptors left.
    pub(super) fn of(label: Label, sockets: &[BoundSocket]) -> io::Result<Self> {
        let sockets = sockets
            .iter()
            .map(|socket| socket.as_fd().try_clone_to_owned())
            .collect::<Result<_, _>>()?;
        Ok(Self { label, sockets })
    }
}

/// Sockets that this process was given.
#[derive(Debug, Default)]
pub struct Inherited {
    sets: Vec<Given>,
}

#[derive(Debug)]
struct Given {
    label: Label,
    bound: BoundAddress,
    /// Empty once they are claimed.
    sockets: Vec<OwnedFd>,
    is_claimed: bool,
}

impl Inherited {
    /// The sockets of the edge before this one, in its order.
    ///
    /// # Errors
    /// One of them is no socket that listens.
    pub fn from_predecessor(passed: Vec<PassedSockets>) -> io::Result<Self> {
        let mut sets = Vec::with_capacity(passed.len());
        for PassedSockets { label, sockets } in passed {
            let Some(first) = sockets.first() else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a listener without sockets",
                ));
            };
            let bound = address_of(first)?;
            sets.push(Given { label, bound, sockets, is_claimed: false });
        }
        Ok(Self { sets })
    }

    /// Sockets of the service manager, with its names for them. Those of one address are one set.
    pub fn from_service_manager(sockets: impl IntoIterator<Item = (OwnedFd, String)>) -> Self {
        let mut sets: Vec<Given> = Vec::new();
        for (socket, name) in sockets {
            let bound = match address_of(&socket) {
                Ok(bound) => bound,
                Err(error) => {
                    warn!(name, %error, "a socket of the service manager can't be used");
                    continue;
                }
            };
            if let Some(set) = sets.iter_mut().find(|set| set.bound == bound) {
                set.sockets.push(socket);
                continue;
            }
            let address = bound.to_listen_address();
            let label = Label { role: Role::Activated(name), address, owns_file: false };
            sets.push(Given { label, bound, sockets: vec![socket], is_claimed: false });
        }
        Self { sets }
    }

    /// These, and behind them others.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.sets.extend(others.sets);
        self
    }

    /// The sockets for `role` at `address`, if they are among these.
    ///
    /// The service manager's name for them wins over the address: the operator chose both names. Else the address
    /// decides, as configured (port 0 is of the same name only) or as bound.
    ///
    /// # Errors
    /// An option can't be set.
    pub fn claim(&mut self, role: &Role, address: &ListenAddress) -> io::Result<Option<SocketSet>> {
        let is_bound_there = |set: &Given| set.bound.to_listen_address() == *address;
        let is_called_so = |set: &Given| match &set.label.role {
            Role::Activated(name) => role.name() == Some(name),
            Role::HandOver => *role == Role::HandOver,
            Role::Listener(_) | Role::Admin => false,
        };
        let is_same = |set: &Given| {
            let is_any = matches!(address, ListenAddress::Tcp(address) if address.port() == 0);
            set.label.address == *address && (!is_any || set.label.role == *role)
        };
        let choices: [&dyn Fn(&Given) -> bool; 4] = [
            &|set| is_called_so(set) && is_bound_there(set),
            &is_called_so,
            &is_same,
            &is_bound_there,
        ];
        let chosen = choices
            .iter()
            .find_map(|fits| self.sets.iter().position(|set| !set.is_claimed && fits(set)));
        let Some(set) = chosen.and_then(|at| self.sets.get_mut(at)) else { return Ok(None) };
        set.is_claimed = true;
        let sockets = std::mem::take(&mut set.sockets)
            .into_iter()
            .map(|socket| adopt(socket, &set.bound))
            .collect::<io::Result<_>>()?;
        Ok(Some(SocketSet {
            sockets,
            address: set.bound.clone(),
            is_inherited: true,
            owns_file: set.label.owns_file,
        }))
    }

    /// Whether sockets that were not claimed take connections that could be meant for `address`.
    pub(super) fn overlaps(&self, address: &ListenAddress) -> bool {
        self.sets.iter().any(|set| match (&set.bound, address) {
            (BoundAddress::Tcp(bound), ListenAddress::Tcp(address)) => {
                !set.is_claimed && overlap(*bound, *address)
            }
            _ => false,
        })
    }

    /// Closes what was not claimed, and says which sets were: their places in the order in which they came.
    pub fn close_the_rest(self) -> Vec<usize> {
        let mut claimed = Vec::new();
        for (at, set) in self.sets.into_iter().enumerate() {
            if set.is_claimed {
                claimed.push(at);
            } else if let Role::Activated(name) = &set.label.role {
                warn!(name, address = %set.bound, "no listener has this socket of the service manager: closed");
            }
        }
        claimed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(address: &str) -> (OwnedFd, ListenAddress) {
        let socket = std::net::TcpListener::bind(address).unwrap();
        let address = ListenAddress::Tcp(socket.local_addr().unwrap());
        (socket.into(), address)
    }

    fn listener(name: &str) -> Role {
        Role::Listener(name.parse().unwrap())
    }

    fn passed(name: &str, configured: &str) -> (PassedSockets, ListenAddress) {
        let (socket, bound) = listening("127.0.0.1:0");
        let label =
            Label { role: listener(name), address: configured.parse().unwrap(), owns_file: true };
        (PassedSockets { label, sockets: vec![socket] }, bound)
    }

    #[test]
    fn an_upgrade_goes_by_the_address_and_a_free_port_by_the_name_too() {
        let any: ListenAddress = "127.0.0.1:0".parse().unwrap();
        let (first, at_first) = passed("first", "127.0.0.1:0");
        let (second, at_second) = passed("second", "127.0.0.1:0");
        let mut inherited = Inherited::from_predecessor(vec![first, second]).unwrap();
        let bound = |set: Option<SocketSet>| set.unwrap().address.to_listen_address();
        assert_eq!(bound(inherited.claim(&listener("second"), &any).unwrap()), at_second);
        assert!(inherited.claim(&listener("second"), &any).unwrap().is_none(), "claimed once");
        assert!(inherited.claim(&listener("third"), &any).unwrap().is_none());
        // Another name for the address as it is bound.
        assert_eq!(bound(inherited.claim(&listener("third"), &at_first).unwrap()), at_first);
        assert_eq!(inherited.close_the_rest(), [0, 1]);
    }

    #[test]
    fn the_name_alone_does_not_keep_an_address_that_the_new_configuration_left() {
        let (set, at) = passed("web", "127.0.0.1:8080");
        let ListenAddress::Tcp(address) = at else { panic!("TCP") };
        let mut inherited = Inherited::from_predecessor(vec![set]).unwrap();
        assert!(
            inherited.claim(&listener("web"), &"127.0.0.1:9".parse().unwrap()).unwrap().is_none()
        );
        assert!(inherited.overlaps(&format!(":{}", address.port()).parse().unwrap()));
        assert!(inherited.close_the_rest().is_empty());
        std::net::TcpStream::connect(address).unwrap_err();
    }

    #[test]
    fn the_service_managers_name_wins_over_the_address() {
        let ((named, at_named), (other, at_other)) =
            (listening("127.0.0.1:0"), listening("127.0.0.1:0"));
        let mut inherited = Inherited::from_service_manager([
            (named, "https".to_owned()),
            (other, "unknown".to_owned()),
        ]);
        let claimed = inherited.claim(&listener("https"), &at_other).unwrap().unwrap();
        assert_eq!(claimed.address.to_listen_address(), at_named);
        assert!(claimed.is_inherited && !claimed.owns_file);
        let by_address = inherited.claim(&Role::Admin, &at_other).unwrap().unwrap();
        assert_eq!(by_address.address.to_listen_address(), at_other);
        assert!(inherited.claim(&Role::HandOver, &at_other).unwrap().is_none());
    }

    #[test]
    fn of_several_sockets_with_one_name_the_address_decides() {
        let sockets = [listening("127.0.0.1:0"), listening("127.0.0.1:0")];
        let second = sockets[1].1.clone();
        let named = sockets.map(|(socket, _)| (socket, "edge".to_owned()));
        let mut inherited = Inherited::from_service_manager(named);
        let claimed = inherited.claim(&listener("edge"), &second).unwrap().unwrap();
        assert_eq!(claimed.address.to_listen_address(), second);
    }
}
