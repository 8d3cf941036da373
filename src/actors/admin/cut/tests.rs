//! Who may cut which connection.

use http::Request;

use super::*;

fn ask(cutter: &Cutter, method: Method, path: &str) -> Option<u16> {
    let request = Request::builder().method(method).uri(path).body(()).unwrap();
    cutter.answer(&request.into_parts().0).map(|answer| answer.status().as_u16())
}

#[test]
fn a_connection_is_cut_by_a_post_that_means_it() {
    let end: EndConnection = Arc::new(|id| (id == "1-0-7").then(|| "10.0.0.1:9 to 10.0.0.2:80".to_owned()));
    let (careful, chaotic) = (Cutter::new(false, end.clone()), Cutter::new(true, end));
    for (cutter, method, path, want) in [
        (&careful, Method::POST, "/connections/1-0-7/cut?yes=true", Some(200)),
        (&careful, Method::POST, "/connections/1-0-7/cut", Some(403)),
        (&careful, Method::POST, "/connections/1-0-7/cut?yes=false", Some(403)),
        (&careful, Method::GET, "/connections/1-0-7/cut?yes=true", Some(405)),
        (&careful, Method::POST, "/connections/1-0-8/cut?yes=true", Some(404)),
        (&chaotic, Method::POST, "/connections/1-0-7/cut", Some(200)),
        (&chaotic, Method::POST, "/connections/1-0-7", None),
        (&chaotic, Method::POST, "/actors/1-0-7/cut", None),
    ] {
        assert_eq!(ask(cutter, method, path), want, "{path}");
    }
}
