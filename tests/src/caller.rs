//! A tenant's backend, asking in the name of its users or in its own.

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::{Answer, App};

/// A tenant.
#[derive(Debug, Clone)]
pub struct Tenant<'a> {
    pub(crate) app: &'a App,
    /// Its id.
    pub id: String,
    /// Its key.
    pub key: String,
}

/// A tenant's backend, in the name of a user or in its own.
#[derive(Debug, Clone)]
pub struct Caller<'a> {
    tenant: Tenant<'a>,
    user: Option<String>,
}

impl<'a> Tenant<'a> {
    /// The backend in the name of a user.
    #[must_use]
    pub fn user(&self, user: &str) -> Caller<'a> {
        Caller { tenant: self.clone(), user: Some(user.to_owned()) }
    }

    /// The backend in its own name.
    #[must_use]
    pub fn backend(&self) -> Caller<'a> {
        Caller { tenant: self.clone(), user: None }
    }

    /// The same tenant, asked through another server.
    #[must_use]
    pub fn through<'b>(&self, app: &'b App) -> Tenant<'b> {
        Tenant { app, id: self.id.clone(), key: self.key.clone() }
    }

    /// The same tenant, with another of its keys.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    /// A room of this type that the first of the members made; its id.
    pub async fn room(&self, room_type: &str, members: &[&str]) -> String {
        let body = json!({ "type": room_type, "members": members });
        self.user(members[0]).post("/rooms", body).await.expect(201).text_of("room_id")
    }
}

impl Caller<'_> {
    pub(crate) fn app(&self) -> &App {
        self.tenant.app
    }

    pub(crate) fn key(&self) -> &str {
        &self.tenant.key
    }

    pub(crate) fn user_id(&self) -> Option<String> {
        self.user.clone()
    }

    /// A request with this caller's credentials, to be finished by hand.
    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let request = self.tenant.app.request(method, path).header("X-API-Key", &self.tenant.key);
        match &self.user {
            Some(user) => request.header("X-User-Id", user),
            None => request,
        }
    }

    /// Asks something.
    pub async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        Answer::read(request.send().await.expect("an answer")).await
    }

    /// `GET`
    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None).await
    }

    /// `POST`
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, Some(body)).await
    }

    /// `PATCH`
    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send("PATCH", path, Some(body)).await
    }

    /// `PUT`
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, Some(body)).await
    }

    /// `DELETE`
    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, None).await
    }

    /// `POST` with an `Idempotency-Key`.
    pub async fn post_once(&self, key: &str, path: &str, body: &Value) -> Answer {
        let request = self.request("POST", path).header("Idempotency-Key", key).json(body);
        Answer::read(request.send().await.expect("an answer")).await
    }

    /// A body as it stands, under this content type.
    pub async fn post_raw(&self, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.request("POST", path).header("Content-Type", content_type).body(body);
        Answer::read(request.send().await.expect("an answer")).await
    }

    /// Sends a message; the whole message.
    pub async fn say(&self, room: &str, content: &str) -> Value {
        self.post(&format!("/rooms/{room}/messages"), json!({ "content": content })).await.expect(201).body
    }
}
