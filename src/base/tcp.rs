//! How TCP connections end. One that is closed with bytes unread is reset, and a reset takes away
//! what was written last from a peer that has not read it yet. So our side is ended first, and what
//! still comes is taken and dropped for a while (nginx's `lingering_close`).

use std::time::Duration;

use rustix::net::RecvFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Bytes that are taken at once.
const BUFFER_BYTES: usize = 16 << 10;

/// How much is taken from a peer that still sends.
#[derive(Clone, Copy, Debug)]
pub struct Linger {
    /// It may send nothing for so long.
    pub silence: Duration,
    /// The whole time.
    pub most: Duration,
    pub bytes: u64,
}

impl Linger {
    /// For one whose request was answered and not read as a whole: time and bytes enough to send
    /// the rest of most uploads.
    pub const AFTER_ANSWER: Linger =
        Linger { silence: Duration::from_secs(2), most: Duration::from_secs(10), bytes: 64 << 20 };

    /// Ends our side, and takes what comes until the peer has ended its own or a bound is met.
    pub async fn close(&self, stream: &mut TcpStream) {
        let ended = async {
            if stream.shutdown().await.is_err() {
                return;
            }
            let (mut buffer, mut taken) = (vec![0; BUFFER_BYTES], 0);
            while taken < self.bytes
                && let Ok(Ok(count @ 1..)) = timeout(self.silence, stream.read(&mut buffer)).await
            {
                taken += count as u64;
            }
        };
        // One that is not done by then is closed as it is.
        let _ = timeout(self.most, ended).await;
    }
}

/// Whether the kernel holds bytes that were not read, known to tokio or not.
pub fn has_unread(stream: &TcpStream) -> bool {
    let mut byte = [0_u8; 1];
    let peeked = rustix::net::recv(stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
    peeked.is_ok_and(|(_, count)| count > 0)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_answer_reaches_a_client_that_still_sends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = tokio::spawn(async move {
            let mut client = TcpStream::connect(address).await.expect("it listens");
            client.write_all(&vec![b'x'; 8 << 20]).await.expect("all is taken");
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.expect("no reset");
            answer
        });
        let (mut server, _) = listener.accept().await.expect("accepts");
        server.write_all(b"enough").await.expect("it is taken");
        Linger::AFTER_ANSWER.close(&mut server).await;
        drop(server);
        assert_eq!(client.await.expect("no panic"), "enough");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_neither_sends_nor_ends_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let _client = TcpStream::connect(address).await.expect("it listens");
        let (mut server, _) = listener.accept().await.expect("accepts");
        let begun = tokio::time::Instant::now();
        Linger::AFTER_ANSWER.close(&mut server).await;
        assert!(begun.elapsed() < Linger::AFTER_ANSWER.most);
    }
}
