//! The protobuf wire format: keys, varints, lengths. Borrowing, never allocating.

use super::super::typegraph::FieldType;
use super::ProtoError;

pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// One field's value as it stands on the wire.
#[derive(Debug, Clone, Copy)]
pub(super) enum Payload<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field's number and value; none at the end.
    pub fn next_field(&mut self) -> Result<Option<(u32, Payload<'a>)>, ProtoError> {
        if self.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| ProtoError::Wire("field number"))?;
        if number == 0 {
            return Err(ProtoError::Wire("field number 0"));
        }
        let payload = match key & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).map_err(|_| ProtoError::Truncated)?;
                Payload::Bytes(self.take(length)?)
            }
            5 => {
                self.array::<4>()?;
                Payload::Fixed32
            }
            _ => return Err(ProtoError::Wire("unsupported wire type")),
        };
        Ok(Some((number, payload)))
    }

    pub fn varint(&mut self) -> Result<u64, ProtoError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(ProtoError::Truncated)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(ProtoError::Wire("a varint is longer than ten bytes"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtoError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(ProtoError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtoError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(ProtoError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }
}

impl<'a> Payload<'a> {
    /// What an absent value of this type means.
    pub fn empty_of(kind: FieldType) -> Payload<'static> {
        match kind {
            FieldType::Int32 | FieldType::Int64 | FieldType::Bool => Payload::Varint(0),
            FieldType::Double => Payload::Fixed64(0),
            _ => Payload::Bytes(&[]),
        }
    }

    pub fn varint(self, field: &'static str) -> Result<u64, ProtoError> {
        match self {
            Payload::Varint(value) => Ok(value),
            _ => Err(ProtoError::WireType(field)),
        }
    }

    pub fn double(self, field: &'static str) -> Result<f64, ProtoError> {
        match self {
            Payload::Fixed64(bits) => Ok(f64::from_bits(bits)),
            _ => Err(ProtoError::WireType(field)),
        }
    }

    pub fn bytes(self, field: &'static str) -> Result<&'a [u8], ProtoError> {
        match self {
            Payload::Bytes(bytes) => Ok(bytes),
            _ => Err(ProtoError::WireType(field)),
        }
    }

    pub fn text(self, field: &'static str) -> Result<&'a str, ProtoError> {
        std::str::from_utf8(self.bytes(field)?).map_err(|_| ProtoError::Utf8(field))
    }
}
