//! Bodies: by their length, in chunks, or until the connection closes (RFC 9112, sections 6 and 7).

use super::{Fault, line::is_token_byte};

/// Digits of a chunk's size: 2^60 bytes, leading zeros counted.
const MAX_SIZE_DIGITS: u8 = 15;
/// Bytes of the extensions of all chunks of a body. Nobody uses them, and who sends many means no good.
const MAX_EXTENSION_BYTES: u32 = 4 << 10;
/// Bytes of all trailers of a body, with their line ends.
const MAX_TRAILER_BYTES: u32 = 8 << 10;

/// A body that is arriving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes are to come.
    Length(u64),
    Chunked {
        place: Place,
        extension_bytes: u32,
        trailer_bytes: u32,
    },
    UntilClose,
}

/// Where in a chunked body the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Size {
        value: u64,
        digits: u8,
    },
    Extension {
        size: u64,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// The first byte of a trailer, or of the empty line that ends the body.
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    End,
}

/// What became of bytes that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// So many from the start belong to the body and are as they should be.
    pub taken: usize,
    /// The byte after them is a fault. Without one it begins the next message, where there is a byte.
    pub fault: Option<Fault>,
}

impl Body {
    /// A body of so many bytes.
    pub fn of_length(length: u64) -> Self {
        Self(State::Length(length))
    }

    /// A body in chunks.
    pub fn chunked() -> Self {
        let place = Place::Size { value: 0, digits: 0 };
        Self(State::Chunked { place, extension_bytes: 0, trailer_bytes: 0 })
    }

    /// A body that ends with the connection.
    pub fn until_close() -> Self {
        Self(State::UntilClose)
    }

    /// Whether nothing of it is to come.
    pub fn has_ended(&self) -> bool {
        matches!(self.0, State::Length(0) | State::Chunked { place: Place::End, .. })
    }

    /// Judges the bytes that came next.
    pub fn judge(&mut self, bytes: &[u8]) -> Judged {
        match &mut self.0 {
            State::Length(left) => {
                let taken =
                    usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= taken as u64;
                Judged { taken, fault: None }
            }
            State::UntilClose => Judged { taken: bytes.len(), fault: None },
            State::Chunked { place, extension_bytes, trailer_bytes } => {
                let mut taken = 0;
                while let Some((&byte, rest)) = bytes.get(taken..).and_then(<[u8]>::split_first) {
                    match place {
                        Place::End => break,
                        Place::Data { left } => {
                            let many = rest.len() + 1;
                            let part = usize::try_from(*left).map_or(many, |left| left.min(many));
                            *left -= part as u64;
                            taken += part;
                            if *left == 0 {
                                *place = Place::DataCr;
                            }
                            continue;
                        }
                        Place::Extension { .. } => *extension_bytes += 1,
                        Place::Trailer | Place::TrailerName | Place::TrailerValue => {
                            *trailer_bytes += 1;
                        }
                        _ => {}
                    }
                    if *extension_bytes > MAX_EXTENSION_BYTES {
                        return Judged { taken, fault: Some(Fault::Chunk) };
                    }
                    if *trailer_bytes > MAX_TRAILER_BYTES {
                        return Judged { taken, fault: Some(Fault::Trailer) };
                    }
                    match place.next(byte) {
                        Ok(next) => *place = next,
                        Err(fault) => return Judged { taken, fault: Some(fault) },
                    }
                    taken += 1;
                }
                Judged { taken, fault: None }
            }
        }
    }
}

impl Place {
    /// Where the byte after this one stands.
    fn next(self, byte: u8) -> Result<Self, Fault> {
        let is_value = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        Ok(match (self, byte) {
            (Self::Size { value, digits }, _) if byte.is_ascii_hexdigit() => {
                if digits == MAX_SIZE_DIGITS {
                    return Err(Fault::Chunk);
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                Self::Size { value: (value << 4) | u64::from(digit), digits: digits + 1 }
            }
            (Self::Size { value, digits: 1.. }, b'\r') => Self::SizeLf { size: value },
            // No white space before it: some take the size to be over there (RFC 9112, section 7.1.1, has it as "bad").
            (Self::Size { value, digits: 1.. }, b';') => Self::Extension { size: value },
            (Self::Extension { size }, b'\r') => Self::SizeLf { size },
            (Self::Extension { size }, _) if is_value(byte) => Self::Extension { size },
            (Self::SizeLf { size: 0 } | Self::TrailerLf, b'\n') => Self::Trailer,
            (Self::SizeLf { size }, b'\n') => Self::Data { left: size },
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size { value: 0, digits: 0 },
            (Self::Trailer, b'\r') => Self::EndLf,
            (Self::Trailer | Self::TrailerName, _) if is_token_byte(byte) => Self::TrailerName,
            (Self::TrailerName, b':') => Self::TrailerValue,
            (Self::TrailerValue, b'\r') => Self::TrailerLf,
            (Self::TrailerValue, _) if is_value(byte) => Self::TrailerValue,
            (Self::EndLf, b'\n') => Self::End,
            (
                Self::Trailer
                | Self::TrailerName
                | Self::TrailerValue
                | Self::TrailerLf
                | Self::EndLf,
                _,
            ) => return Err(Fault::Trailer),
            _ => return Err(Fault::Chunk),
        })
    }
}
