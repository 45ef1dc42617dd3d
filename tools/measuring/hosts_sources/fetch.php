<?php // fetch.php COUNT URL...: file_get_contents and curl in turn.
for ($i = 0; $i < $argv[1]; $i++) {
    $url = $argv[2 + $i % ($argc - 2)];
    if ($i % 3) {
        $body = @file_get_contents($url, false, stream_context_create(['http' => ['timeout' => 20]]));
    } else {
        $curl = curl_init($url);
        curl_setopt_array($curl, [CURLOPT_RETURNTRANSFER => true, CURLOPT_TIMEOUT => 20]);
        $body = curl_exec($curl);
    }
    echo $body === false ? "failed\n" : 'got ' . trim($body) . "\n";
}
