//! A connection on which an answer has an end.
//!
//! Before its answer an endpoint may send any number of interim ones (`1xx`), which the HTTP client
//! skips. One that sends nothing else would keep a processor busy for as long as a call may take, and
//! two of them the server. So what comes back for one call is bounded.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_service::Service;

/// The most bytes that come back for one call: the head of an answer, and more than is read of its body.
const MAX_ANSWER: usize = 256 * 1024;

/// Makes connections that are bounded.
#[derive(Debug, Clone)]
pub(crate) struct Bounded<C>(pub(crate) C);

impl<C> Service<Uri> for Bounded<C>
where
    C: Service<Uri>,
    C::Future: Send + 'static,
{
    type Response = TokioIo<BoundedStream<TokioIo<C::Response>>>;
    type Error = C::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, C::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move {
            let inner = TokioIo::new(connecting.await?);
            Ok(TokioIo::new(BoundedStream { inner, read: 0 }))
        })
    }
}

/// A stream from which only so much is read until something is written again: the next call.
#[derive(Debug)]
pub(crate) struct BoundedStream<S> {
    inner: S,
    read: usize,
}

impl<S: Connection> Connection for BoundedStream<TokioIo<S>> {
    fn connected(&self) -> Connected {
        self.inner.inner().connected()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BoundedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read > MAX_ANSWER {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long")));
        }
        let before = into.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, into);
        self.read += into.filled().len() - before;
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BoundedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.read = 0;
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.read = 0;
        Pin::new(&mut self.inner).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
