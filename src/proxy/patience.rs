//! Ends a request of HTTP/2 whose body has gone silent.
//!
//! Pingora reads bodies of HTTP/2 without a timeout, and calls no hook while none comes. Here the whole request is
//! polled beside a timer; when the silence has lasted too long it is dropped with all that belongs to it. Its client gets
//! `RST_STREAM`, its endpoint a closed connection or a reset stream, and `outcome` counts and logs it when the request's
//! context is dropped. A request without a body costs a look at an empty cell.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use tokio::time::Sleep;

use super::body_pace::Silence;

tokio::task_local! {
    /// Where a request that is being polled says that it has a body.
    static BODY: RefCell<Option<Arc<Silence>>>;
}

/// Has the silence of this body watched, where the present request can be ended so. For hooks.
pub(super) fn watch(silence: &Arc<Silence>) {
    // There is no cell on HTTP/1.1.
    let _ = BODY.try_with(|body| *body.borrow_mut() = Some(Arc::clone(silence)));
}

/// A request that ends with `None` when its body is silent for too long.
#[derive(Debug)]
pub struct Patient<F> {
    request: F,
    silence: Option<Arc<Silence>>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<F> Patient<F> {
    /// Watches a request of HTTP/2.
    pub fn new(request: F) -> Self {
        Self { request, silence: None, timer: None }
    }
}

impl<T, F: Future<Output = Option<T>> + Unpin> Future for Patient<F> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let this = self.get_mut();
        let cell = RefCell::new(this.silence.take());
        let (polled, silence) = BODY.sync_scope(cell, || {
            let polled = Pin::new(&mut this.request).poll(cx);
            (polled, BODY.with(|body| body.borrow_mut().take()))
        });
        if polled.is_ready() {
            return polled;
        }
        this.silence = silence;
        let Some(silence) = &this.silence else { return Poll::Pending };
        loop {
            let Some(left) = silence.left(Instant::now()) else {
                this.silence = None;
                return Poll::Pending;
            };
            if left.is_zero() {
                silence.cut();
                return Poll::Ready(None);
            }
            // It is set anew only when it has run out: a body that flows costs no timer.
            let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
            match timer.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) => this.timer = None,
            }
        }
    }
}
