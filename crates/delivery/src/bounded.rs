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

impl<S> BoundedStream<S> {
    /// What is written begins anew what may be read; a try that writes nothing does not.
    fn noted(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.read = 0;
        }
        written
    }
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
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.noted(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, bytes);
        self.noted(written)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    async fn read_all(bounded: &mut BoundedStream<tokio::io::DuplexStream>) -> (usize, io::Result<usize>) {
        let (mut read, mut part) = (0, [0; 8192]);
        loop {
            match bounded.read(&mut part).await {
                Ok(0) => return (read, Ok(0)),
                Ok(more) => read += more,
                Err(error) => return (read, Err(error)),
            }
        }
    }

    #[tokio::test]
    async fn only_so_much_is_read_until_something_is_written() {
        let (mut endpoint, ours) = duplex(3 * MAX_ANSWER);
        let mut bounded = BoundedStream { inner: ours, read: 0 };
        endpoint.write_all(&vec![7; 3 * MAX_ANSWER]).await.expect("there is room");

        let (first, refused) = read_all(&mut bounded).await;
        bounded.write_all(b"the next call").await.expect("written");
        let (second, refused_again) = read_all(&mut bounded).await;

        assert!((MAX_ANSWER..MAX_ANSWER + 8192).contains(&(first - 1)), "{first}");
        assert!(refused.is_err() && refused_again.is_err());
        assert_eq!(second, first);
    }

    #[tokio::test]
    async fn a_write_that_finds_no_room_begins_nothing() {
        let (mut endpoint, ours) = duplex(64 * 1024);
        let mut bounded = BoundedStream { inner: ours, read: 0 };
        bounded.write_all(&vec![7; 64 * 1024]).await.expect("as much as there is room for");
        let flood = async { while endpoint.write_all(&[7; 8192]).await.is_ok() {} };

        let reading = async {
            let (mut part, mut read) = ([0; 8192], 0);
            while read <= 2 * MAX_ANSWER {
                read += bounded.read(&mut part).await?;
                assert!(futures_util::FutureExt::now_or_never(bounded.write(b"more")).is_none(), "no room");
            }
            Ok::<_, io::Error>(())
        };
        let read = tokio::select! { read = reading => read, () = flood => Ok(()) };

        assert!(read.is_err());
    }
}
