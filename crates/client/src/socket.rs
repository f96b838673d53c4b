//! The WebSocket itself: its handshake, its frames.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use secrecy::ExposeSecret;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message as Frame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Utf8Bytes};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use crate::{Client, Error};

/// For the handshake, and for the first frame after it.
pub(crate) const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// A frame that is not taken in this time will not be.
const WRITE_WITHIN: Duration = Duration::from_secs(10);

const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// Why a connection is over.
#[derive(Debug)]
pub(crate) enum End {
    /// The user wants no more.
    Stopped,
    /// The server closed it.
    Closed { code: u16, reason: String },
    /// The server refused it.
    Refused(Error),
    /// It broke.
    Lost(Error),
}

impl End {
    pub(crate) fn lost(reason: &'static str) -> Self {
        Self::Lost(Error::Transport(reason.into()))
    }
}

/// An open WebSocket.
pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    /// Opens the socket of a client.
    pub(crate) async fn open(client: Client) -> Result<Self, End> {
        let (address, headers) = client.socket();
        let mut request = address.expose_secret().into_client_request().map_err(lost)?;
        request.headers_mut().extend(headers);
        // The library's own 128 KiB would be for one connection what is enough for many.
        let config = WebSocketConfig::default().read_buffer_size(16 * 1024);
        match timeout(OPEN_WITHIN, connect_async_with_config(request, Some(config), true)).await {
            Ok(Ok((socket, _))) => Ok(Self(socket)),
            Ok(Err(WsError::Http(answer))) => {
                let body = answer.body().as_deref().unwrap_or_default();
                Err(End::Refused(Error::from_answer(answer.status().as_u16(), answer.headers(), body)))
            }
            Ok(Err(error)) => Err(lost(error)),
            Err(_) => Err(End::lost("no answer to the handshake")),
        }
    }

    /// The next frame; nothing for one without text.
    ///
    /// It may be dropped and called again.
    pub(crate) async fn next(&mut self) -> Result<Option<Utf8Bytes>, End> {
        match self.0.next().await {
            Some(Ok(Frame::Text(text))) => Ok(Some(text)),
            Some(Ok(Frame::Close(Some(CloseFrame { code, reason })))) => {
                Err(End::Closed { code: code.into(), reason: reason.to_string() })
            }
            Some(Ok(Frame::Close(None))) | None => Err(End::lost("the server closed the connection")),
            Some(Ok(_)) => Ok(None),
            Some(Err(error)) => Err(lost(error)),
        }
    }

    pub(crate) async fn send(&mut self, text: String) -> Result<(), End> {
        self.write(Frame::text(text)).await
    }

    /// Asks whether somebody is there.
    pub(crate) async fn ping(&mut self) -> Result<(), End> {
        self.write(Frame::Ping(Vec::new().into())).await
    }

    /// Says goodbye.
    pub(crate) async fn close(&mut self) {
        // It is over in any case.
        let _ = timeout(CLOSE_WITHIN, self.0.close(None)).await;
    }

    async fn write(&mut self, frame: Frame) -> Result<(), End> {
        match timeout(WRITE_WITHIN, self.0.send(frame)).await {
            Ok(sent) => sent.map_err(lost),
            Err(_) => Err(End::lost("the server takes no more")),
        }
    }
}

fn lost(error: WsError) -> End {
    End::Lost(Error::Transport(Box::new(error)))
}
