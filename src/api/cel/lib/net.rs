//! IP addresses and ranges of them (k8s.io/apiserver/pkg/cel/library/ip.go and cidr.go).

use std::any::Any;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::api::cel::eval::{Error, no_overload};
use crate::api::cel::functions::{Cost, Row, native, row};
use crate::api::cel::value::{Opaque, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ip(IpAddr);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cidr {
    address: IpAddr,
    bits: u32,
}

impl Opaque for Ip {
    fn type_name(&self) -> &'static str {
        "net.IP"
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Opaque for Cidr {
    fn type_name(&self) -> &'static str {
        "net.CIDR"
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn parse_ip(text: &str) -> Result<IpAddr, String> {
    let shown: String = text.chars().take(100).collect();
    let address: IpAddr = text.parse().map_err(|_| {
        format!(
            "IP Address {shown:?} parse error during conversion from string: unable to parse IP"
        )
    })?;
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {shown:?} is not allowed"))
        }
        address => Ok(address),
    }
}

fn parse_cidr(text: &str) -> Result<Cidr, String> {
    let shown: String = text.chars().take(100).collect();
    let bad =
        |why: &str| format!("network address parse error during conversion from string: {why}");
    let (address, bits) = text
        .split_once('/')
        .ok_or_else(|| bad(&format!("netip.ParsePrefix({shown:?}): no '/'")))?;
    let address = parse_ip(address).map_err(|why| bad(&why))?;
    let plain = !bits.is_empty()
        && bits.bytes().all(|b| b.is_ascii_digit())
        && (bits == "0" || !bits.starts_with('0'));
    let bits = Some(bits).filter(|_| plain).and_then(|bits| bits.parse().ok());
    let bits = bits.filter(|bits| *bits <= width(address));
    let bits = bits.ok_or_else(|| bad(&format!("netip.ParsePrefix({shown:?}): bad bits")))?;
    Ok(Cidr { address, bits })
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with zeros behind its first bits.
fn masked(address: IpAddr, bits: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            Ipv4Addr::from(u32::from(v4) & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            Ipv6Addr::from(u128::from(v6) & mask).into()
        }
    }
}

impl Cidr {
    fn contains(&self, address: IpAddr) -> bool {
        width(self.address) == width(address)
            && masked(address, self.bits) == masked(self.address, self.bits)
    }

    fn covers(&self, other: Cidr) -> bool {
        self.bits <= other.bits && self.contains(other.address)
    }
}

fn ip(args: &[Value]) -> Result<IpAddr, Error> {
    args.first().and_then(Value::is::<Ip>).map(|ip| ip.0).ok_or_else(no_overload)
}

fn cidr(args: &[Value]) -> Result<Cidr, Error> {
    args.first().and_then(Value::is::<Cidr>).copied().ok_or_else(no_overload)
}

fn is_global_unicast(address: IpAddr) -> bool {
    let special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    !special && !is_link_local(address) && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn is_link_local_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

macro_rules! property {
    ($name:literal, $holds:expr) => {
        row(concat!("(net.IP).", $name, "() -> bool"), Cost::One, |_, args| {
            let holds: fn(IpAddr) -> bool = $holds;
            Ok(Value::Bool(holds(ip(args)?)))
        })
    };
}

pub fn rows() -> Vec<Row> {
    let mut rows = vec![
        row(
            "ip(string) -> net.IP",
            Cost::Text,
            native!([Value::String(a)] => {
                parse_ip(a).map(|ip| Value::opaque(Ip(ip))).map_err(Error::new)
            }),
        ),
        row(
            "isIP(string) -> bool",
            Cost::Text,
            native!([Value::String(a)] => {
                Ok(Value::Bool(parse_ip(a).is_ok()))
            }),
        ),
        row(
            "ip.isCanonical(string) -> bool",
            Cost::TwiceText,
            native!([Value::String(a)] => {
                let ip = parse_ip(a).map_err(Error::new)?;
                Ok(Value::Bool(ip.to_string() == **a))
            }),
        ),
        row("string(net.IP) -> string", Cost::One, |_, a| Ok(Value::string(ip(a)?.to_string()))),
        row("(net.IP).family() -> int", Cost::One, |_, a| {
            Ok(Value::Int(if ip(a)?.is_ipv4() { 4 } else { 6 }))
        }),
        property!("isUnspecified", |ip| ip.is_unspecified()),
        property!("isLoopback", |ip| ip.is_loopback()),
        property!("isLinkLocalMulticast", is_link_local_multicast),
        property!("isLinkLocalUnicast", is_link_local),
        property!("isGlobalUnicast", is_global_unicast),
    ];
    rows.extend(ranges());
    rows
}

fn ranges() -> Vec<Row> {
    vec![
        row(
            "cidr(string) -> net.CIDR",
            Cost::Text,
            native!([Value::String(a)] => {
                parse_cidr(a).map(Value::opaque).map_err(Error::new)
            }),
        ),
        row(
            "isCIDR(string) -> bool",
            Cost::Text,
            native!([Value::String(a)] => {
                Ok(Value::Bool(parse_cidr(a).is_ok()))
            }),
        ),
        row("string(net.CIDR) -> string", Cost::One, |_, a| {
            let Cidr { address, bits } = cidr(a)?;
            Ok(Value::string(format!("{address}/{bits}")))
        }),
        row("(net.CIDR).ip() -> net.IP", Cost::One, |_, a| Ok(Value::opaque(Ip(cidr(a)?.address)))),
        row("(net.CIDR).prefixLength() -> int", Cost::One, |_, a| {
            Ok(Value::Int(cidr(a)?.bits.into()))
        }),
        row("(net.CIDR).masked() -> net.CIDR", Cost::One, |_, a| {
            let Cidr { address, bits } = cidr(a)?;
            Ok(Value::opaque(Cidr { address: masked(address, bits), bits }))
        }),
        row("(net.CIDR).containsIP(net.IP) -> bool", Cost::One, |_, a| {
            Ok(Value::Bool(cidr(a)?.contains(ip(&a[1..])?)))
        }),
        row(
            "(net.CIDR).containsIP(string) -> bool",
            Cost::One,
            native!(run,
                [range, Value::String(b)] => {
                    run.meter.traverse(b.len())?;
                    let range = range.is::<Cidr>().ok_or_else(no_overload)?;
                    Ok(Value::Bool(range.contains(parse_ip(b).map_err(Error::new)?)))
                }
            ),
        ),
        row("(net.CIDR).containsCIDR(net.CIDR) -> bool", Cost::One, |_, a| {
            Ok(Value::Bool(cidr(a)?.covers(cidr(&a[1..])?)))
        }),
        row(
            "(net.CIDR).containsCIDR(string) -> bool",
            Cost::One,
            native!(run,
                [range, Value::String(b)] => {
                    run.meter.traverse(b.len())?;
                    let range = range.is::<Cidr>().ok_or_else(no_overload)?;
                    Ok(Value::Bool(range.covers(parse_cidr(b).map_err(Error::new)?)))
                }
            ),
        ),
    ]
}
