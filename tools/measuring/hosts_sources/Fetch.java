// Fetch COUNT URL...: java.net.http, a client for each request.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;

class Fetch {
    public static void main(String[] words) {
        int count = Integer.parseInt(words[0]);
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).connectTimeout(Duration.ofSeconds(20)).build();
        for (int i = 0; i < count; i++) {
            try {
                HttpRequest request = HttpRequest.newBuilder(URI.create(words[1 + i % (words.length - 1)])).timeout(Duration.ofSeconds(20)).build();
                System.out.println("got " + client.send(request, HttpResponse.BodyHandlers.ofString()).body().strip());
            } catch (Exception error) {
                System.out.println("failed " + error);
            }
        }
    }
}
