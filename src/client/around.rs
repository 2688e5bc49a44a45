//! An [`Api`] around another one: what looks at calls on their way, or changes them, says only where,
//! and everything else goes through. The one place that forwards the whole trait.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::election::Fence;
use super::{
    Api, DeleteOptions, ListOptions, Patch, RawList, SharedApi, Target, WatchOptions, WatchStream,
    WriteOptions,
};
use crate::api::{ApiError, Object, Raw};

/// What a call does, before it is done.
#[derive(Clone, Copy, Debug)]
pub enum Call<'a> {
    Get(&'a Target),
    List(&'a Target),
    Watch(&'a Target),
    Write(&'a Target),
    /// Bytes outside the resources.
    Bytes,
}

/// A write on its way.
pub struct Write<'a> {
    pub target: Cow<'a, Target>,
    pub what: What,
}

/// What is written.
pub enum What {
    Create(Object, WriteOptions),
    Update(Object, WriteOptions),
    Patch(Patch, WriteOptions),
    Delete(DeleteOptions),
}

impl What {
    /// The call's name, for people.
    pub fn verb(&self) -> &'static str {
        match self {
            What::Create(..) => "create",
            What::Update(..) => "update",
            What::Patch(..) => "patch",
            What::Delete(_) => "delete",
        }
    }

    /// The term that it is made under.
    pub fn fence(&mut self) -> &mut Option<Arc<Fence>> {
        match self {
            What::Create(_, options) | What::Update(_, options) | What::Patch(_, options) => {
                &mut options.fence
            }
            What::Delete(options) => &mut options.fence,
        }
    }
}

impl Write<'_> {
    /// Does it.
    pub async fn perform(self, api: &dyn Api) -> Result<Raw, ApiError> {
        let target = &*self.target;
        match self.what {
            What::Create(object, options) => api.create(target, object, &options).await,
            What::Update(object, options) => api.update(target, object, &options).await,
            What::Patch(patch, options) => api.patch(target, patch, &options).await,
            What::Delete(options) => api.delete(target, &options).await,
        }
    }

    /// The same with a target of its own.
    pub fn into_owned(self) -> Write<'static> {
        Write { target: Cow::Owned(self.target.into_owned()), what: self.what }
    }
}

/// Whoever implements this is an [`Api`]. Each call first goes by [`Around::before`].
pub trait Around: Send + Sync + 'static {
    /// What it is around.
    fn inner(&self) -> SharedApi;

    /// Is waited for before each call; its error is the call's.
    fn before(&self, _call: Call<'_>) -> impl Future<Output = Result<(), ApiError>> + Send {
        std::future::ready(Ok(()))
    }

    fn get(&self, target: &Target) -> impl Future<Output = Result<Raw, ApiError>> + Send {
        async move { self.inner().get(target).await }
    }

    fn list(
        &self,
        target: &Target,
        options: &ListOptions,
    ) -> impl Future<Output = Result<RawList, ApiError>> + Send {
        async move { self.inner().list(target, options).await }
    }

    fn watch(
        &self,
        target: &Target,
        options: &WatchOptions,
    ) -> impl Future<Output = Result<WatchStream, ApiError>> + Send {
        async move { self.inner().watch(target, options).await }
    }

    /// Each of the four calls that write.
    fn write(&self, write: Write<'_>) -> impl Future<Output = Result<Raw, ApiError>> + Send {
        async move { write.perform(&*self.inner()).await }
    }
}

#[async_trait::async_trait]
impl<T: Around> Api for T {
    async fn get(&self, target: &Target) -> Result<Raw, ApiError> {
        self.before(Call::Get(target)).await?;
        Around::get(self, target).await
    }

    async fn list(&self, target: &Target, options: &ListOptions) -> Result<RawList, ApiError> {
        self.before(Call::List(target)).await?;
        Around::list(self, target, options).await
    }

    async fn watch(
        &self,
        target: &Target,
        options: &WatchOptions,
    ) -> Result<WatchStream, ApiError> {
        self.before(Call::Watch(target)).await?;
        Around::watch(self, target, options).await
    }

    async fn create(
        &self,
        target: &Target,
        object: Object,
        options: &WriteOptions,
    ) -> Result<Raw, ApiError> {
        written(self, target, What::Create(object, options.clone())).await
    }

    async fn update(
        &self,
        target: &Target,
        object: Object,
        options: &WriteOptions,
    ) -> Result<Raw, ApiError> {
        written(self, target, What::Update(object, options.clone())).await
    }

    async fn patch(
        &self,
        target: &Target,
        patch: Patch,
        options: &WriteOptions,
    ) -> Result<Raw, ApiError> {
        written(self, target, What::Patch(patch, options.clone())).await
    }

    async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<Raw, ApiError> {
        written(self, target, What::Delete(options.clone())).await
    }

    async fn get_bytes(&self, path: &str) -> Result<Bytes, ApiError> {
        self.before(Call::Bytes).await?;
        self.inner().get_bytes(path).await
    }
}

async fn written<T: Around>(around: &T, target: &Target, what: What) -> Result<Raw, ApiError> {
    around.before(Call::Write(target)).await?;
    around.write(Write { target: Cow::Borrowed(target), what }).await
}
