//! This side of the cable between the machine's network device and us: asks who has an address.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Our addresses.
const OWN_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const OWN_IP: [u8; 4] = [10, 0, 0, 99];
/// How often we ask: a device that has just come up may lose the first question.
const AGAIN: Duration = Duration::from_secs(1);
const BIGGEST: usize = 65_536;

/// The request of [`OWN_IP`] for the address of `wanted`: Ethernet and ARP headers.
fn request(wanted: [u8; 4]) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend([0xff; 6]);
    packet.extend(OWN_MAC);
    packet.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    packet.extend(OWN_MAC);
    packet.extend(OWN_IP);
    packet.extend([0; 6]);
    packet.extend(wanted);
    packet.resize(60, 0);
    packet
}

/// The address that an answer to our request gives.
fn answer(packet: &[u8], wanted: [u8; 4]) -> Option<[u8; 6]> {
    let reply = packet.get(12..22)? == [8, 6, 0, 1, 8, 0, 6, 4, 0, 2] && packet.get(..6)? == OWN_MAC;
    (reply && packet.get(28..32)? == wanted && packet.get(38..42)? == OWN_IP)
        .then(|| packet[22..28].try_into().ok())
        .flatten()
}

fn packet(cable: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    cable.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > BIGGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    cable.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The hardware address of who answers for `wanted`.
pub fn who_has(cable: &mut UnixStream, wanted: [u8; 4], limit: Duration) -> Result<[u8; 6]> {
    let deadline = Instant::now() + limit;
    cable.set_read_timeout(Some(AGAIN))?;
    let question = request(wanted);
    while Instant::now() < deadline {
        cable.write_all(&(question.len() as u32).to_be_bytes())?;
        cable.write_all(&question)?;
        loop {
            match packet(cable) {
                Ok(packet) => {
                    if let Some(address) = answer(&packet, wanted) {
                        return Ok(address);
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
                Err(error) => return Err(error).context("the machine's network cable"),
            }
        }
    }
    bail!("nobody answers for {wanted:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_to_us_counts() {
        let mut packet = request([10, 0, 0, 1]);
        assert_eq!(answer(&packet, [10, 0, 0, 1]), None, "a request is no answer");
        packet[..6].copy_from_slice(&OWN_MAC);
        packet[21] = 2;
        packet[22..28].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
        packet[28..32].copy_from_slice(&[10, 0, 0, 1]);
        packet[38..42].copy_from_slice(&OWN_IP);
        assert_eq!(answer(&packet, [10, 0, 0, 1]), Some([2, 0, 0, 0, 0, 7]));
        assert_eq!(answer(&packet, [10, 0, 0, 2]), None);
        assert_eq!(answer(&packet[..20], [10, 0, 0, 1]), None);
    }
}
