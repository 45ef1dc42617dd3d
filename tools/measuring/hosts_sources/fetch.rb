# fetch.rb COUNT URL...: net/http, a connection for each request.
require 'net/http'
count, *urls = ARGV
count.to_i.times do |i|
  puts "got #{Net::HTTP.get(URI(urls[i % urls.size])).strip}"
rescue SystemCallError, SocketError, IOError, Timeout::Error, OpenSSL::SSL::SSLError => e
  puts "failed #{e.message}"
end
