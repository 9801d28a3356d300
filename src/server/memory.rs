//! Memory that a configuration took on its way into force goes back to the system.
//!
//! Parsing takes several times what the result keeps. The allocator holds what is freed for later and gives it back only
//! while it is being asked, which an idle edge does not do.

/// Gives back what the calling thread has freed, and what no thread uses. Takes milliseconds; never on the request path.
pub(super) fn give_back() {
    #[expect(unsafe_code, reason = "the allocator's own function, which its crate does not wrap")]
    // SAFETY: it takes no pointer, may be called by any thread at any time, and touches free memory only. Where another
    // allocator serves (in tests), there is nothing for it to do.
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}
