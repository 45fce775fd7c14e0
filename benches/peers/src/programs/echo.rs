//! A server that sends back what it gets, and its clients.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const CLIENTS: usize = 16;
const MESSAGES: usize = 1500;

pub fn run() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_io().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Small messages that wait for each other: without it, the kernel's delays are what is measured.
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(stream));
            }
        });
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                tokio::spawn(async move {
                    let mut stream = TcpStream::connect(address).await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    for i in 0..MESSAGES {
                        let message = vec![client as u8; 64 + i * 37 % 2000];
                        stream.write_all(&(message.len() as u32).to_le_bytes()).await.unwrap();
                        stream.write_all(&message).await.unwrap();
                        assert_eq!(read_message(&mut stream).await.unwrap(), message);
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
    });
}

async fn serve(mut stream: TcpStream) {
    while let Some(message) = read_message(&mut stream).await {
        stream.write_all(&(message.len() as u32).to_le_bytes()).await.unwrap();
        stream.write_all(&message).await.unwrap();
    }
}

async fn read_message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = stream.read_u32_le().await.ok()?;
    let mut message = vec![0; length as usize];
    stream.read_exact(&mut message).await.ok()?;
    Some(message)
}
